#!/usr/bin/env bash
# Prints the directory of a go command that can build this module. The one in
# the path is taken when it is new enough, or can fetch a newer one itself
# (Go 1.21 and later do). Otherwise the toolchain below is fetched from the Go
# module proxy into the cache directory, where go itself would get it; nothing
# is installed into the system.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

version=1.26.8
sum=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7 # SHA-256 of the zip for linux-amd64

fail() {
	echo "go.sh: $*" >&2
	exit 1
}

wanted=$(sed -n 's/^go //p' "$root/go.mod")
if command -v go >/dev/null; then
	# In the module's directory: go switches to a newer toolchain if it may.
	have=$(cd "$root" && go env GOVERSION 2>/dev/null || true)
	have=${have#go}
	have=${have%% *}
	if [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ]; then
		dirname "$(command -v go)"
		exit 0
	fi
fi

cache=$("$here/cache-dir.sh")
dir=$cache/go-$version
if [ ! -d "$dir" ]; then
	hint="install Go $wanted or later (https://go.dev/doc/install) and put it into the path"
	[ "$(uname -sm)" = "Linux x86_64" ] || fail "Go $wanted is missing: $hint"
	for tool in curl unzip; do
		command -v $tool >/dev/null || fail "Go $wanted is missing, and $tool to fetch it: run 'make setup', or $hint"
	done
	exec 9>"$cache/install.lock"
	flock 9
	if [ ! -d "$dir" ]; then
		proxy=$(tr ',|' '\n\n' <<<"${GOPROXY:-}" | grep -m 1 '^http' || echo https://proxy.golang.org)
		work=$(mktemp -d "$cache/unpack.XXXXXX")
		trap 'rm -rf "$work"' EXIT
		trap 'exit 130' INT TERM
		module=golang.org/toolchain@v0.0.1-go$version.linux-amd64
		echo "fetching Go $version from ${proxy##*@}" >&2
		curl -fsSL --retry 3 -o "$work/go.zip" "$proxy/${module/@//@v/}.zip" || fail "no toolchain from the Go module proxy: $hint"
		echo "$sum  $work/go.zip" | sha256sum --check --status || fail "the toolchain is not the one that was pinned: $hint"
		unzip -q "$work/go.zip" -d "$work"
		# Module zips carry no modes.
		chmod -R a+rX "$work/$module"
		chmod a+x "$work/$module"/bin/* "$work/$module"/pkg/tool/linux_amd64/*
		mv "$work/$module" "$dir"
	fi
fi
echo "$dir/bin"
