#!/usr/bin/env bash
# toxiproxy.sh: prints the path of toxiproxy's server, which is a bad network
# between a program and its storage.
set -euo pipefail
exec "$(dirname "$0")/go-program.sh" toxiproxy github.com/Shopify/toxiproxy/v2/cmd/server v2.12.0
