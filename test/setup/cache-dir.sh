#!/usr/bin/env bash
# Prints the directory in which the tests keep downloaded servers and built
# programs between runs, and makes it. It lies outside the checkout, and the
# unprivileged user that runs the servers can read it: so for root it is never
# below /root, which is closed to others.
set -euo pipefail
umask 022

if [ -n "${PGTROVE_TEST_CACHE:-}" ]; then
	dir=$PGTROVE_TEST_CACHE
elif [ "$(id -u)" = 0 ]; then
	dir=/var/cache/pgtrove-test
else
	dir=${XDG_CACHE_HOME:-$HOME/.cache}/pgtrove-test
fi
mkdir -p "$dir"
cd "$dir" && pwd -P
