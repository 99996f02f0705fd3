#!/usr/bin/env bash
# s3-server.sh: prints the path of an S3 server, versitygw. It is built into the
# cache directory the first time it is asked for, which takes a minute or two;
# the Go module proxy and its checksum database vouch for the source.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)
version=v1.8.0

fail() {
	echo "s3-server.sh: $*" >&2
	exit 1
}

cache=$("$here/cache-dir.sh")
dir=$cache/versitygw-$version
if [ -d "$dir" ]; then
	echo "$dir/versitygw"
	exit 0
fi

go=$("$here/go.sh") # takes the same lock
# One installer at a time: test programs run at once and may all be first.
exec 9>"$cache/install.lock"
flock 9
if [ -d "$dir" ]; then
	echo "$dir/versitygw"
	exit 0
fi

PATH=$go:$PATH
work=$(mktemp -d "$cache/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
echo "building the S3 server versitygw $version (go install)" >&2
# Outside the module: neither its go.mod nor its flags play a part.
cd "$work"
for attempt in 1 2 3; do
	GOFLAGS='' GOWORK=off GOBIN=$work nice go install -ldflags '-s -w' "github.com/versity/versitygw/cmd/versitygw@$version" >"$work/log" 2>&1 && break
	[ $attempt = 3 ] && fail "go install failed three times: $(tail -n 20 "$work/log")"
	sleep $((attempt * 5))
done
chmod 0755 "$work" "$work/versitygw"
"$work/versitygw" --version >/dev/null || fail "the server does not run"
rm -f "$work/log"
mv "$work" "$dir"
echo "$dir/versitygw"
