package pg_test

import (
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

func TestRelationFilesAreKnownByTheirPath(t *testing.T) {
	const d, g = pg.DefaultTablespace, pg.GlobalTablespace
	for path, want := range map[string]pg.RelFile{
		"base/5/16384":            {d, 5, 16384, pg.ForkMain, 0, false},
		"base/5/16384.1":          {d, 5, 16384, pg.ForkMain, 1, false},
		"base/5/16384_fsm":        {d, 5, 16384, pg.ForkFSM, 0, false},
		"base/5/16384_fsm.2":      {d, 5, 16384, pg.ForkFSM, 2, false},
		"base/5/4294967295_vm.17": {d, 5, 4294967295, pg.ForkVM, 17, false},
		"global/1262":             {g, 0, 1262, pg.ForkMain, 0, false},
		"global/1262_vm":          {g, 0, 1262, pg.ForkVM, 0, false},
		"pg_tblspc/16400/PG_15_202209061/5/16390_init": {16400, 5, 16390, pg.ForkInit, 0, false},
		"base/5/t3_16391":                            {d, 5, 16391, pg.ForkMain, 0, true},
		"base/5/t123_16391_fsm":                      {d, 5, 16391, pg.ForkFSM, 0, true},
		"base/5/t0_16391_vm.100":                     {d, 5, 16391, pg.ForkVM, 100, true},
		"pg_tblspc/16400/PG_18_202506291/5/t1_16390": {16400, 5, 16390, pg.ForkMain, 0, true},
	} {
		if got, ok := pg.ParseRelPath(path); !ok || got != want {
			t.Errorf("%s: %+v, %v", path, got, ok)
		}
	}
}

func TestOtherFilesAreNoRelations(t *testing.T) {
	for _, path := range []string{
		"", "base", "base/", "base/5", "base/5/", "/base/5/1", "base//1", "base/5/PG_VERSION", "base/5/pg_filenode.map", "base/5/pg_internal.init",
		"base/pgsql_tmp/pgsql_tmp123.0", "base/5/0", "base/5/01", "base/0/1", "base/x/1", "base/5/16384_", "base/5/16384_main", "base/5/16384_fsm_vm",
		"base/5/16384.", "base/5/16384.0", "base/5/16384.01", "base/5/16384.1.2", "base/5/16384_fsm.", "base/5/4294967296", "base/5/16384.4294967296",
		"base/5/+1", "base/5/1 ", "base/5/6/7", "base/5/t_1", "base/5/t1_", "base/5/t1", "base/5/tx_1", "base/5/T1_1", "global/t1_1262", "global/pg_control",
		"global/5/1262", "pg_tblspc/16400/5/16390", "pg_tblspc/16400/PG_15_202209061/5", "pg_tblspc/x/PG_15_202209061/5/1", "pg_tblspc/16400",
		"pg_wal/000000010000000000000001", "pg_xact/0000", "1262", "data/base/5/1",
	} {
		if got, ok := pg.ParseRelPath(path); ok {
			t.Errorf("%s: %+v", path, got)
		}
	}
}
