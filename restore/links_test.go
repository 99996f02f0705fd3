package restore

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/snapshot"
)

// tied is a cluster whose data directory had links to a directory for WAL, to one with files, and to two files.
func tied(t *testing.T, outside string) (*cluster, *snapshot.Manifest) {
	t.Helper()
	c := newCluster(t)
	for i := range c.entries {
		if c.entries[i].Path == "data/pg_wal" {
			c.entries[i].Link = filepath.Join(outside, "wal")
		}
	}
	c.dir("data/log", 0o700)
	c.entries[len(c.entries)-1].Link = filepath.Join(outside, "a/log")
	c.dir("data/log/old", 0o750)
	c.files["data/log/old/1"] = []byte("said")
	c.files["data/server.crt"], c.links["data/server.crt"] = []byte("certificate"), filepath.Join(outside, "ssl/server.crt")
	c.files["data/postgresql.conf"], c.links["data/postgresql.conf"] = []byte("recovery_target_name = 'old'\n"), "../conf/postgresql.conf"
	c.files["data/base/1/1"] = pages(rand.New(rand.NewPCG(5, 6)), 500)
	return c, c.take(t, "snap")
}

func TestLinksAreLinksAgainWhereThatIsWanted(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "outside")
	c, m := tied(t, outside)
	put(t, filepath.Join(outside, "ssl/server.crt"), "certificate") // as it is in the snapshot
	must(t, os.MkdirAll(filepath.Join(outside, "wal"), 0o700))
	dir := filepath.Join(top, "data")
	o := c.options(m, dir)
	o.LinkAll = true
	o.Recovery.Target = Target{Kind: Immediate}
	// First one that is interrupted.
	ctx, cancel := context.WithCancel(t.Context())
	o.Events.Fetched = func(int64) { cancel() }
	if _, err := Run(ctx, c.repo, o); err == nil {
		t.Fatal("not interrupted")
	}
	o.Events.Fetched, o.Delta = nil, true
	report, err := Run(t.Context(), c.repo, o)
	must(t, err)
	for rel, want := range map[string]string{
		"pg_wal": filepath.Join(outside, "wal"), "log": filepath.Join(outside, "a/log"), "server.crt": filepath.Join(outside, "ssl/server.crt"),
		"postgresql.conf": "../conf/postgresql.conf",
	} {
		if to, err := os.Readlink(filepath.Join(dir, rel)); err != nil || to != want {
			t.Errorf("%s leads to %q, want %q: %v", rel, to, want, err)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(outside, "a/log/old/1"): "said", filepath.Join(top, "conf/postgresql.conf"): "recovery_target_name = 'old'\n",
		filepath.Join(outside, "ssl/server.crt"): "certificate",
	} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if info, err := os.Stat(filepath.Join(outside, "wal/archive_status")); err != nil || !info.IsDir() {
		t.Errorf("archive_status: %v", err)
	}
	if info, err := os.Stat(filepath.Join(outside, "a/log/old")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("mode of what is behind a link: %v, %v", info.Mode(), err)
	}
	if conf := restored(t, dir)["postgresql.auto.conf"]; !strings.Contains(conf, "recovery_target_name = ''") {
		t.Errorf("settings behind a link were not seen:\n%s", conf)
	}
	if len(report.Linked) != 4 || len(report.Links) != 0 {
		t.Errorf("linked %v, inside %v", report.Linked, report.Links)
	}
}

func TestNothingIsLinkedOntoWhatIsInUse(t *testing.T) {
	for name, spoil := range map[string]func(outside string) map[string]string{
		"a directory with content": func(outside string) map[string]string { put(t, filepath.Join(outside, "wal/1"), "x"); return nil },
		"a file with other content": func(outside string) map[string]string {
			put(t, filepath.Join(outside, "ssl/server.crt"), "certificatE")
			return nil
		},
		"a file of another size": func(outside string) map[string]string {
			put(t, filepath.Join(outside, "ssl/server.crt"), "cert")
			return nil
		},
		"a directory in a file's place": func(outside string) map[string]string {
			must(t, os.MkdirAll(filepath.Join(outside, "ssl/server.crt"), 0o700))
			return nil
		},
		"into the data directory": func(outside string) map[string]string {
			return map[string]string{"to": filepath.Join(outside, "wal/data")}
		},
	} {
		outside := filepath.Join(t.TempDir(), "outside")
		c, m := tied(t, outside)
		o := c.options(m, filepath.Join(filepath.Dir(outside), "data"))
		o.LinkAll = true
		if to := spoil(outside)["to"]; to != "" {
			o.To = to
		}
		before := map[string]string{}
		if _, err := os.Stat(outside); err == nil {
			before = restored(t, outside)
		}
		var refused *RefusedError
		if _, err := Run(t.Context(), c.repo, o); !errors.As(err, &refused) || !strings.Contains(refused.Hint, "without --link-all") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(o.To); err == nil {
			t.Errorf("%s: refused, and the directory was made", name)
		}
		if len(before) > 0 && !mapsEqual(before, restored(t, outside)) {
			t.Errorf("%s: something was changed", name)
		}
	}
}
