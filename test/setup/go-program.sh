#!/usr/bin/env bash
# go-program.sh NAME PACKAGE VERSION: prints the path of a Go program that tests
# run beside them. It is built into the cache directory the first time it is
# asked for, which takes a minute or two; the Go module proxy and its checksum
# database vouch for the source.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)

fail() {
	echo "go-program.sh: $*" >&2
	exit 1
}

[ $# = 3 ] || fail "usage: go-program.sh NAME PACKAGE VERSION"
name=$1 package=$2 version=$3
cache=$("$here/cache-dir.sh")
dir=$cache/$name-$version
if [ -d "$dir" ]; then
	echo "$dir/$name"
	exit 0
fi

go=$("$here/go.sh") # takes the same lock
# One installer at a time: test programs run at once and may all be first.
exec 9>"$cache/install.lock"
flock 9
if [ -d "$dir" ]; then
	echo "$dir/$name"
	exit 0
fi

PATH=$go:$PATH
work=$(mktemp -d "$cache/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
echo "building $name $version (go install)" >&2
# Outside the module: neither its go.mod nor its flags play a part.
cd "$work"
for attempt in 1 2 3; do
	GOFLAGS='' GOWORK=off GOBIN=$work nice go install -ldflags '-s -w' "$package@$version" >"$work/log" 2>&1 && break
	[ $attempt = 3 ] && fail "go install failed three times: $(tail -n 20 "$work/log")"
	sleep $((attempt * 5))
done
built=$work/${package##*/}
[ "$built" = "$work/$name" ] || mv "$built" "$work/$name"
chmod 0755 "$work" "$work/$name"
"$work/$name" --version >/dev/null || fail "$name does not run"
rm -f "$work/log"
mv "$work" "$dir"
echo "$dir/$name"
