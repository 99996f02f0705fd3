package keys

import (
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// marker is a text that occurs nowhere else.
func marker(what string) string {
	var b [12]byte
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return "planted-" + what + "-" + hex.EncodeToString(b[:])
}

// plant puts a marker into a table, and so into WAL, often enough to be compressed; and besides into a file of the data directory if that is not empty.
func (w *world) plant(table, text, file string) {
	w.t.Helper()
	w.Exec(w.t, "CREATE TABLE "+table+" AS SELECT i, '"+text+"' AS what, repeat(md5(i::text), 4) AS fill FROM generate_series(1, 3000) i; CHECKPOINT")
	if file != "" {
		path := filepath.Join(w.Dir, "planted.conf")
		w.write(path, strings.Repeat(file+"\n", 100))
	}
}

// TestAWriterHostWorksAndItsThiefReadsNothing: all that a host does it does with a writer's key; and whoever has that key, the host's caches and the whole repository
// finds nothing in it that stood in the database.
func TestAWriterHostWorksAndItsThiefReadsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inTable, inFile, inWAL := marker("table"), marker("file"), marker("wal")
	w.plant("planted", inTable, inFile)
	first := w.backup("")
	w.plant("later", inWAL, "")
	second := w.backup("")
	if first.WAL != "complete" || second.WAL != "complete" || second.Added > first.Added/2 {
		t.Errorf("snapshots %+v and %+v: the second is to share what the first has", first, second)
	}
	w.receives(inWAL)
	w.livesWithItsKey(first)
	w.isToldWhatItMayNot()

	stolen := filepath.Join(t.TempDir(), "repo")
	if err := os.CopyFS(stolen, os.DirFS(w.repo)); err != nil {
		t.Fatal(err)
	}
	caches := filepath.Join(w.Home, "cache", "pgtrove")
	th := newThief(t, stolen, w.host, inTable, inFile, inWAL)
	th.everything()
	if files := th.files(caches); files < 5 {
		t.Errorf("%d files in the caches", files)
	}
	if len(th.found) > 0 || th.opened > 0 || th.archived > 0 || th.refused < 10 || th.closed < 3 {
		t.Errorf("the thief found %v; %d chunks of data opened, %d did not, %d WAL files opened, %d did not", th.found, th.opened, th.refused, th.archived, th.closed)
	}
	w.inspectsAll(th, inTable, inFile, inWAL)

	// An owner finds all of it there: the search works.
	honest := newThief(t, stolen, w.owner, inTable, inFile, inWAL)
	honest.everything()
	if len(honest.found) != 3 || honest.opened != th.refused || honest.archived != th.closed || honest.refused+honest.closed > 0 {
		t.Errorf("the owner found %v; %d chunks of %d, %d WAL files of %d", honest.found, honest.opened, th.refused, honest.archived, th.closed)
	}
	s := w.started(w.restored(w.owner))
	if n := s.Query(t, "SELECT count(*) FROM later WHERE what = '"+inWAL+"'"); n != "3000" {
		t.Errorf("%s rows", n)
	}
}

// receives streams WAL with the host's key until something of the server's last segment is there.
func (w *world) receives(text string) {
	w.t.Helper()
	cmd := w.command("", "wal", "receive", "--interval", "200ms")
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	parts := func() int {
		found, _ := filepath.Glob(filepath.Join(w.repo, "wal", "main", "*", "*", "*.part", "*"))
		return len(found)
	}
	wait(w.t, "a part of a segment", func() bool {
		w.Exec(w.t, "SELECT pg_logical_emit_message(true, 'x', '"+text+"')")
		return parts() > 0
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		w.t.Errorf("wal receive: %v", err)
	}
	w.ok("", "wal", "receive", "--drop-slot")
}

// livesWithItsKey does everything else that a host does.
func (w *world) livesWithItsKey(first snapshot) {
	w.t.Helper()
	for _, args := range [][]string{
		{"wal", "list"}, {"snapshots"}, {"info"}, {"check"}, {"verify"}, {"key", "list"}, {"inspect"},
		{"restore", "--list", first.ID}, {"pin", first.ID}, {"unpin", first.ID},
		{"forget", "--keep-last", "1", "--dry-run"}, {"forget", first.ID}, {"prune"}, {"prune"}, {"snapshots"},
	} {
		w.ok("", args...)
	}
	if left := lines(w.t, w.ok("", "snapshots", "--json")); len(left) != 1 {
		w.t.Errorf("%d snapshots are left", len(left))
	}
}

// isToldWhatItMayNot: each message says why, and what to do.
func (w *world) isToldWhatItMayNot() {
	w.t.Helper()
	may := func(r pgtest.Result, says string) {
		w.t.Helper()
		if !has(r.Stderr, "is a writer's, and", says, "hint: ", "--key-file") {
			w.t.Errorf("it said: %s", r.Stderr)
		}
	}
	to := filepath.Join(w.dir, "nothing")
	may(w.ends(8, "", "restore", "--to", to), "opens no backup")
	may(w.ends(8, "", "restore", "--to", to, "--dry-run"), "opens no backup")
	if _, err := os.Lstat(to); err == nil {
		w.t.Error("it wrote something")
	}
	may(w.ends(8, "", "verify", "--read-data"), "owner")
	may(w.ends(8, "", "verify", "--repair"), "owner")
	may(w.ends(8, "", "key", "add", "--role", "owner"), "owner")
	may(w.ends(8, "", "key", "rotate", "--data"), "owner")
	fetch := w.command("", "wal", "fetch", w.archived(), filepath.Join(w.Home, "fetched"))
	fetch.Dir = w.Dir
	r := pgtest.Run(w.t, fetch)
	if r.Code != 126 {
		w.t.Errorf("wal fetch: exit %d", r.Code)
	}
	may(r, "opens no WAL")
}

// archived is the name of an archived segment.
func (w *world) archived() string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.repo, "wal", "main", "*", "*", strings.Repeat("?", 24)))
	for _, path := range found {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return filepath.Base(path)
		}
	}
	w.t.Fatalf("no segment is archived: %v", err)
	return ""
}

// inspectsAll shows the thief what the command inspect shows of every object.
func (w *world) inspectsAll(th *thief, markers ...string) {
	w.t.Helper()
	cmd := w.command("")
	script := pgtest.Command(w.t, w.Home, "sh", "-c", `"$0" inspect | while read -r size key; do "$0" inspect "$key" || exit; done`, cmd.Path)
	script.Env = cmd.Env
	shown := pgtest.MustRun(w.t, script)
	if strings.Count(shown, "\n") < th.objects {
		w.t.Errorf("inspect shows %d bytes of %d objects", len(shown), th.objects)
	}
	for _, m := range markers {
		if strings.Contains(shown, m) {
			w.t.Errorf("inspect shows %s", m)
		}
	}
}

// TestAStandbyFollowsTheArchiveWithItsKey: with a writer's key it does not, and is told why by a code that neither promotes it nor shuts it down; with a standby's it
// does, and that key restores no backup.
func TestAStandbyFollowsTheArchiveWithItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.add("standby", "db2")
	w.Exec(t, "CREATE TABLE followed AS SELECT 1 AS i")
	w.backup("")
	segment := w.SwitchWAL(t)
	w.WaitArchived(t, segment)
	if r := w.ends(8, w.owner, "restore", "--to", filepath.Join(w.dir, "nothing"), "--standby", "--recovery-key-file", w.host); !has(r.Stderr, "is a writer's, which opens no WAL") {
		t.Error(r.Stderr)
	}
	w.Exec(t, "SELECT pg_create_physical_replication_slot('db2')")
	primary := strings.TrimSuffix(w.DSN(), " connect_timeout=5")
	to := w.restored(w.owner, "--standby", "--recovery-key-file", key, "--primary-conninfo", primary, "--primary-slot", "db2")
	fetch := w.command("", "wal", "fetch", segment, "pg_wal/RECOVERYXLOG")
	fetch.Dir = to // which has standby.signal: PostgreSQL asks again after 7
	if r := pgtest.Run(t, fetch); r.Code != 7 || !has(r.Stderr, "is a writer's, and opens no WAL", "hint: restore_command needs the key of a standby", "pgtrove key add --role standby") {
		t.Errorf("wal fetch on a standby: exit %d: %s", r.Code, r.Stderr)
	}
	s := pgtest.Adopt(t, w.Version, to)
	s.ExtraEnv = w.ExtraEnv
	s.Start(t)
	w.Exec(t, "INSERT INTO followed VALUES (2)")
	w.WaitArchived(t, w.SwitchWAL(t))
	s.WaitQuery(t, "SELECT count(*) FROM followed", "2", patience)
	w.WaitQuery(t, "SELECT r.state || s.slot_name FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid", "streamingdb2", patience)
	w.Exec(t, "INSERT INTO followed VALUES (3)") // in a segment that nobody ends
	s.WaitQuery(t, "SELECT count(*) FROM followed", "3", patience)
	if got := s.Query(t, "SELECT pg_is_in_recovery()"); got != "t" {
		t.Errorf("in recovery: %s", got)
	}
	r := w.ends(8, key, "restore", "--to", filepath.Join(w.dir, "nothing"))
	if !has(r.Stderr, "(db2) is a standby's, and opens no backup") {
		t.Error(r.Stderr)
	}
	w.ends(8, key, "verify", "--read-data")

	text := marker("data")
	w.plant("planted", text, text)
	w.backup("")
	th := newThief(t, w.repo, key, text)
	th.everything()
	if where := th.found[text]; th.opened > 0 || th.refused == 0 || th.archived == 0 || th.closed > 0 || !strings.HasPrefix(where, "wal/") {
		t.Errorf("%d chunks of data and %d WAL files opened; %d and %d did not; the marker is in %q", th.opened, th.archived, th.refused, th.closed, where)
	}
}
