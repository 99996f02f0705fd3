#!/usr/bin/env bash
# install.sh build|demo|test|bench: installs what this machine lacks for it,
# by apt-get, and says what it does. It does nothing, and asks for no rights,
# when everything is there. Installing PostgreSQL makes and starts no cluster.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
goal=${1:-}

fail() {
	echo "setup: $*" >&2
	exit 1
}

have() { command -v "$1" >/dev/null; }

# The newest server of Debian's layout that pgtrove supports.
some_server() {
	local v
	for v in 18 17 16 15 14 13; do
		if [ -x /usr/lib/postgresql/$v/bin/postgres ] && [ -x /usr/lib/postgresql/$v/bin/pgbench ]; then return 0; fi
	done
	return 1
}

server_15() {
	[ -x /usr/lib/postgresql/15/bin/postgres ] && [ -x /usr/lib/postgresql/15/bin/pgbench ] &&
		[ -e /usr/share/postgresql/15/extension/amcheck.control ]
}

packages=()
need() { packages+=("$1"); }
case $goal in
build | demo | test | bench) ;;
*) fail "usage: install.sh build|demo|test|bench" ;;
esac
if ! "$here/go.sh" >/dev/null 2>&1; then # it may only lack what fetches it
	have curl || need curl
	have unzip || need unzip
	[ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates
fi
case $goal in
demo) some_server || need postgresql ;;
test | bench)
	server_15 || need postgresql-15
	have npm || have curl || need curl
	have flock || need util-linux
	[ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates
	;;&
bench)
	have pgbackrest || need pgbackrest
	have restic || need restic
	have zstd || need zstd
	;;
esac
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u | sed '/^$/d')

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian's packages start a cluster "main" on port 5432 when they are installed
# first. Nobody asked for one here, so its own switch is turned off meanwhile.
no_cluster=/etc/postgresql-common/createcluster.d/pgtrove-setup.conf
log=''
finish() { # on any exit
	local code=$?
	if [ -e $no_cluster ]; then as_root rm -f $no_cluster; fi
	if [ $code != 0 ] && [ -s "$log" ]; then tail -n 30 "$log" >&2; fi
	rm -f "$log"
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -q "$@" >>"$log" 2>&1; }

install_packages() {
	echo "setup: installing ${packages[*]} (apt-get)" >&2
	as_root true || fail "not allowed to act as root: please install ${packages[*]} and call again"
	log=$(mktemp)
	trap finish EXIT
	trap 'exit 130' INT TERM
	apt update || fail "apt-get update failed"
	local p
	for p in "${packages[@]}"; do
		if ! apt-cache show "$p" >/dev/null 2>&1; then
			case $p in
			postgresql-15) fail "this system has no package postgresql-15 (Debian 12 has): add the repository of https://apt.postgresql.org and call again" ;;
			*) fail "this system has no package $p" ;;
			esac
		fi
	done
	case " ${packages[*]} " in
	*" postgresql"*)
		apt install -y --no-install-recommends postgresql-common || fail "apt-get install failed"
		as_root mkdir -p ${no_cluster%/*}
		echo "create_main_cluster = off" | as_root tee $no_cluster >/dev/null
		;;
	esac
	apt install -y --no-install-recommends "${packages[@]}" || fail "apt-get install failed"
}

if [ ${#packages[@]} -gt 0 ]; then
	have apt-get || fail "these packages of Debian 12, or what they are called here, are missing: ${packages[*]}"
	[ "$(id -u)" = 0 ] || have sudo || fail "neither root nor sudo: please install ${packages[*]} and call again"
	install_packages
fi
"$here/go.sh" >/dev/null

if [ "$goal" = test ] || [ "$goal" = bench ]; then
	# Servers refuse to run as root. Debian's packages bring the user postgres.
	if [ "$(id -u)" = 0 ] && ! id postgres >/dev/null 2>&1 && ! id pgtrove-test >/dev/null 2>&1; then
		echo "setup: adding the system user pgtrove-test" >&2
		useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin pgtrove-test
	fi
	"$here/s3-server.sh" >/dev/null
fi
if [ "$goal" = test ]; then
	"$here/toxiproxy.sh" >/dev/null
	for major in 13 14 16 17 18; do "$here/server.sh" $major >/dev/null; done
	# What killed test programs left, when it is old enough that none can run still.
	whose=(-user "$(id -u)")
	[ "$(id -u)" != 0 ] || whose=()
	find "${TMPDIR:-/tmp}" -maxdepth 1 -type d -name 'pgtrove-test-[0-9]*' -mmin +1440 "${whose[@]}" -exec rm -rf {} +
fi
