#!/usr/bin/env bash
# s3-server.sh: prints the path of an S3 server, versitygw.
set -euo pipefail
exec "$(dirname "$0")/go-program.sh" versitygw github.com/versity/versitygw/cmd/versitygw v1.8.0
