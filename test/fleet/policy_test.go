package fleet

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/test/s3test"
)

// TestEveryHostWorksWithItsRightsAlone: on a bucket that keeps versions and retention, as it should be at AWS.
func TestEveryHostWorksWithItsRightsAlone(t *testing.T) {
	f := newFleet(t, s3test.Options{Versions: true, Log: true}, (*s3test.Server).Locked)
	admin, db, reader, pruner := f.host(owner, "main"), f.host(databaseHost, "main"), f.host(readingHost, "main"), f.host(pruningHost, "main")
	admin.ok("init", "--object-lock", "14d")
	db.server("15")
	db.pg.Exec(t, "CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id")
	first := db.backup()
	db.pg.Exec(t, "INSERT INTO orders SELECT generate_series(1001, 2000)")
	second := db.backup()
	db.pg.Exec(t, "INSERT INTO orders VALUES (2001)")
	db.archived()
	for _, args := range [][]string{{"snapshots"}, {"info"}, {"check"}, {"wal", "list"}} {
		db.ok(args...)
	}
	reader.ok("verify", "--read-data")
	if got := db.restored("15").Query(t, "SELECT count(*) FROM orders"); got != "2001" {
		t.Errorf("%s rows, restored by the database host", got)
	}

	pruner.ok("pin", second)
	pruner.ok("unpin", second)
	pruner.ok("forget", first)
	pruner.ok("prune")
	pruner.ok("prune")
	third := db.backup()
	if list := reader.ok("snapshots"); strings.Contains(list, first) || !strings.Contains(list, second) || !strings.Contains(list, third) {
		t.Errorf("after a prune:\n%s", list)
	}
	if got := reader.restored("15").Query(t, "SELECT count(*) FROM orders"); got != "2001" {
		t.Errorf("%s rows, restored by the reading host", got)
	}
	reader.ok("verify", "--read-data")

	// That a name has two versions tells a person that something happened.
	root := account{admin, f.Admin()}
	for _, key := range slices.Sorted(maps.Keys(root.objects())) {
		if all := root.versions(key); len(all) != 1 {
			t.Errorf("%s has %d versions", key, len(all))
		}
	}

	// So nothing needs a right that the document does not name, such as to ask for the bucket's region or whether it is there.
	for h, want := range map[*host][]string{
		admin:  {"s3_DeleteObject", "s3_GetObject", "s3_ListObjectsV2", "s3_PutObject"},
		db:     {"s3_GetObject", "s3_ListObjectsV2", "s3_PutObject"},
		reader: {"s3_GetObject", "s3_ListObjectsV2"},
		pruner: {"s3_DeleteObject", "s3_GetObject", "s3_HeadObject", "s3_ListObjectsV2", "s3_PutObject"}, // HEAD is for locks
	} {
		kinds, denied := f.Asked(h.account)
		if got := slices.Sorted(maps.Keys(kinds)); !slices.Equal(got, want) || denied != 0 {
			t.Errorf("%s asked for %v, want %q, and was denied %d requests", h.account.AccessKey, kinds, want, denied)
		}
	}
	forbiddenCommands(t, f, second, admin, db, reader, pruner)
}

// forbiddenCommands tries the commands that hosts have no right to. They say what they were not let do.
func forbiddenCommands(t *testing.T, f *fleet, snapshot string, admin, db, reader, pruner *host) {
	t.Helper()
	// Not even into another's cluster. Now, as long as the server has the segment.
	segment := filepath.Join(db.pg.Dir, "pg_wal", db.pg.SwitchWAL(t))
	for _, h := range []*host{admin, db, reader, pruner} {
		h.fails(8, "put wal/other/", "--cluster", "other", "wal", "push", segment)
	}
	db.fails(8, "put snapshots/other/", "--cluster", "other", "backup", "--checkpoint", "fast", "--wal", "none")
	for _, h := range []*host{admin, reader} {
		h.pg = db.pg
		h.fails(8, "put sessions/", "backup", "--checkpoint", "fast", "--wal", "none")
	}
	for _, h := range []*host{admin, db, reader} {
		for _, c := range []struct {
			say  string
			args []string
		}{
			{"put forget/" + snapshot + ": access denied", []string{"forget", snapshot}},
			{"put forget/" + snapshot + ": access denied", []string{"forget", "--prune", snapshot}},
			{"put pins/" + snapshot + ": access denied", []string{"pin", snapshot}},
			{"put base/", []string{"prune"}},
		} {
			if said := h.fails(8, c.say, c.args...); !strings.Contains(said, "the bucket's policy") {
				t.Errorf("no hint: %s", said)
			}
		}
	}
	for _, h := range []*host{db, reader, pruner} {
		said := h.fails(8, "put selftest/", "init", "--repo", f.repo()+"/another", "--key-file", filepath.Join(h.home, "key"))
		if !strings.Contains(said, "s3:PutObject") || !strings.Contains(said, "docs/object-storage.md") {
			t.Errorf("no hint: %s", said)
		}
	}
}
