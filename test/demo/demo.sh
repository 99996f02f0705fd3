#!/usr/bin/env bash
# The story of `make demo`: a cluster is backed up, a table is lost, and comes
# back. Everything happens below one scratch directory with servers of its own
# that listen on no network port; all of it is gone when the script ends,
# however it ends. As root, everything runs as the user postgres.
#
# PG_BIN chooses the PostgreSQL to use (a directory with postgres and pgbench),
# PGTROVE the binary (default bin/pgtrove).
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)
pgtrove=${PGTROVE:-$here/../../bin/pgtrove}

fail() {
	echo "demo: $*" >&2
	exit 1
}

pg_bin() {
	local v
	for v in 18 17 16 15 14 13; do
		if [ -x /usr/lib/postgresql/$v/bin/postgres ] && [ -x /usr/lib/postgresql/$v/bin/pgbench ]; then
			echo /usr/lib/postgresql/$v/bin
			return
		fi
	done
	pg_config --bindir 2>/dev/null || fail "no PostgreSQL found: run 'make demo', or set PG_BIN"
}

[ -x "$pgtrove" ] || fail "no $pgtrove: run 'make build' first"
bin=${PG_BIN:-$(pg_bin)}
user=$(id -un)
if [ "$(id -u)" = 0 ]; then
	user=postgres
	id $user >/dev/null 2>&1 || fail "PostgreSQL refuses to run as root, and there is no user postgres"
fi

scratch=$(mktemp -d /tmp/pgtrove-demo.XXXXXX)
# The rest runs with this environment and nothing else of the caller's.
clean=(env -i "HOME=$scratch/home" "PATH=$scratch/bin:$bin:/usr/local/bin:/usr/bin:/bin" LC_ALL=C.UTF-8 "TERM=${TERM:-dumb}"
	"COLUMNS=${COLUMNS:-}" PGUSER=postgres PGDATABASE=postgres
	"PGTROVE_REPO=$scratch/repository" "PGTROVE_KEY_FILE=$scratch/identity.txt")
as_user() { # in the scratch directory, never as root
	if [ "$(id -u)" = 0 ]; then
		(cd "$scratch" && runuser -u "$user" -- "${clean[@]}" "$@")
	else
		(cd "$scratch" && "${clean[@]}" "$@")
	fi
}

cleanup() {
	local code=$? name
	trap '' INT TERM HUP
	for name in production restored; do
		# A server that was being started writes its pid file in a moment.
		[ "$starting" != $name ] || [ -e "$scratch/$name/postmaster.pid" ] || sleep 1
		if [ -e "$scratch/$name/postmaster.pid" ]; then
			as_user pg_ctl -D "$scratch/$name" -m immediate -w stop >/dev/null 2>&1 || true
		fi
	done
	if [ $code != 0 ] && [ $code -lt 128 ]; then
		for name in production restored; do
			[ ! -s "$scratch/$name.log" ] || { echo "--- end of the log of $name"; tail -n 20 "$scratch/$name.log"; } >&2
		done
	fi
	# A last archive_command may still be writing for a moment.
	rm -rf "$scratch" 2>/dev/null || { sleep 2 && rm -rf "$scratch"; }
	if [ $code = 0 ]; then
		note "Both servers are stopped, $scratch is removed."
	else
		echo "demo: failed or interrupted; both servers are stopped, $scratch is removed" >&2
	fi
	exit $code
}
starting=''
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

step=0
say() { # a new step of the story
	step=$((step + 1))
	printf '\n%s%d. %s%s\n' "$bold" $step "$*" "$plain"
}
note() { printf '   %s\n' "$*"; }
show() { # a command as a person would type it, and what it prints
	local word line=''
	for word in "$@"; do
		case $word in *' '*) line+=" '$word'" ;; *) line+=" $word" ;; esac
	done
	printf '   %s$%s%s\n' "$dim" "$line" "$plain"
	as_user "$@"
}
bold='' dim='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

sql() { as_user psql -h "$scratch/sockets/$1" -XqAt -v ON_ERROR_STOP=1 -c "$2"; }
table() { as_user psql -h "$scratch/sockets/$1" -Xq -v ON_ERROR_STOP=1 -P footer=off -c "$2" | sed 's/^/   /; s/ *$//'; }
start() { # start NAME [SETTING]
	local name=$1 options
	shift
	options="-c listen_addresses= -k $scratch/sockets/$name${*:+ -c $*}"
	as_user mkdir -p "$scratch/sockets/$name"
	starting=$name
	as_user pg_ctl -D "$scratch/$name" -l "$scratch/$name.log" -t 120 -w -o "$options" start >/dev/null
	starting=''
}
fingerprint() { sql "$1" "SELECT count(*) || ' rows, md5 ' || md5(string_agg(o::text, E'\n' ORDER BY id)) FROM orders o"; }

mkdir "$scratch/bin" "$scratch/home" "$scratch/sockets"
install -m 755 "$pgtrove" "$scratch/bin/pgtrove"
if [ "$(id -u)" = 0 ]; then chown -R "$user": "$scratch"; fi

echo "pgtrove demo: $(as_user pgtrove version), $("$bin/postgres" --version), in $scratch, as user $user"

say "Make a repository. The identity file that comes with it is the key to everything."
show pgtrove init

say "Start a scratch cluster, 'production', that hands every finished WAL segment to pgtrove."
as_user initdb -D "$scratch/production" -U postgres -A trust -E UTF8 --locale=C --data-checksums >/dev/null
as_user tee -a "$scratch/production/postgresql.conf" >/dev/null <<-CONF
	archive_mode = on
	archive_command = '$scratch/bin/pgtrove wal push %p'
	archive_timeout = 60
	shared_buffers = 64MB
CONF
start production
clean+=("PGHOST=$scratch/sockets/production")
note "archive_command = 'pgtrove wal push %p'"

say "Fill it: one million pgbench accounts, and a table of orders."
as_user pgbench -i -s 10 -q 2>/dev/null
sql production "CREATE TABLE orders (id int PRIMARY KEY, customer text, amount numeric, placed timestamptz DEFAULT clock_timestamp());
	INSERT INTO orders SELECT n, 'customer ' || n % 700, n % 9973 / 7.0 FROM generate_series(1, 20000) n"
note "$(sql production "SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database") in the cluster, $(sql production "SELECT count(*) FROM orders") orders"

say "Back it up while it works: pgbench keeps writing meanwhile."
as_user pgbench -n -c 2 -R 200 -T 5 >/dev/null 2>&1 &
load=$!
show pgtrove backup
wait $load

say "Back it up again: this snapshot is complete too, and only chunks that are new are stored."
show pgtrove backup --tag reason=again

say "Life goes on: three orders come in after the last backup."
sql production "INSERT INTO orders VALUES (20001, 'Ada', 12.50), (20002, 'Grace', 99.00), (20003, 'Edsger', 7.25)"
table production "SELECT id, customer, amount, placed FROM orders ORDER BY id DESC LIMIT 3"
before=$(fingerprint production)
note "orders: $before"
moment=$(sql production "SELECT clock_timestamp()")
sleep 1

say "Disaster, a second after $moment: somebody drops the table."
note "=# DROP TABLE orders"
sql production "DROP TABLE orders"
note "=# SELECT count(*) FROM orders"
sql production "SELECT count(*) FROM orders" 2>&1 | sed 's/^/   /' || true
as_user pgbench -n -c 2 -t 500 >/dev/null 2>&1
segment=$(sql production "SELECT pg_walfile_name(pg_switch_wal())")
for ((i = 0; i < 600; i++)); do
	[ "$(sql production "SELECT coalesce(last_archived_wal >= '$segment', false) FROM pg_stat_archiver")" = t ] && break
	sleep 0.1
done
note "Others go on writing; the last WAL segment, $segment, is in the archive."

say "Restore to the moment before, into a new directory. pgtrove chooses the snapshot."
show pgtrove restore --to "$scratch/restored" --target-time "$moment"

say "Start a second server on it. It fetches its WAL from the repository and stops at the moment."
note "archive_mode = off, so that the copy does not archive beside the original"
start restored archive_mode=off
for ((i = 0; i < 600; i++)); do
	[ "$(sql restored "SELECT pg_is_in_recovery()")" = f ] && break
	sleep 0.1
done
table restored "SELECT id, customer, amount, placed FROM orders ORDER BY id DESC LIMIT 3"
after=$(fingerprint restored)
note "orders before: $before"
note "orders after:  $after"
[ "$before" = "$after" ] || fail "the restored rows differ"
note "Every row is back, those written after the last backup too."

say "What the repository holds now."
show pgtrove snapshots
echo
show pgtrove info

say "Is every byte of it as it should be?"
show pgtrove verify --read-data

say "Clean up."
