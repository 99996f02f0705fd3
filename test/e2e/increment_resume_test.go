package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// uploaded are the chunks of pages in the data packs of one session or of all.
type uploaded struct {
	plain, sealed int64
	ids           map[string]int // in how many places each stands
}

// uploadedBy inspects the packs of a session; of all sessions where sid is "".
func (w *world) uploadedBy(sid string) uploaded {
	w.t.Helper()
	prefix := "packs/"
	if sid != "" {
		prefix += sid + "/"
	}
	u := uploaded{ids: map[string]int{}}
	for line := range strings.Lines(w.ok("inspect", "--json", prefix)) {
		var object struct{ Key string }
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			w.t.Fatal(err)
		}
		var pack struct {
			Content struct {
				Kind   string
				Chunks []struct {
					ID, Form      string
					Sealed, Plain int64
				}
			}
		}
		if err := json.Unmarshal([]byte(w.ok("inspect", "--json", object.Key)), &pack); err != nil {
			w.t.Fatal(err)
		}
		if pack.Content.Kind != "data" {
			continue
		}
		for _, c := range pack.Content.Chunks {
			u.ids[c.ID]++
			if c.Form != "bytes" {
				u.plain += c.Plain
				u.sealed += c.Sealed
			}
		}
	}
	return u
}

// twice counts the chunks that stand in two places.
func (u uploaded) twice() (n int) {
	for _, places := range u.ids {
		if places > 1 {
			n++
		}
	}
	return n
}

// objects names those in a directory of the repository, without those that are being written.
func (w *world) objects(dir string) (names []string) {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.repo, dir, "[0-9]*"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range found {
		names = append(names, filepath.Base(path))
	}
	return names
}

// kill starts a backup and ends it with SIGKILL once it has stored so many more packs. It returns the session's ID.
func (w *world) kill(packs int) (sid string) {
	w.t.Helper()
	before := map[string]bool{}
	for _, session := range w.objects("sessions") {
		before[session] = true
	}
	cmd := w.Command("pgtrove", "backup", "--wal", "include")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if sid == "" {
			for _, session := range w.objects("sessions") {
				if !before[session] {
					sid = session
				}
			}
			continue
		}
		if len(w.objects("packs/"+sid)) >= packs {
			break
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		w.t.Fatalf("%v:\n%s", err, &out)
	}
	_ = cmd.Wait()
	if _, err := os.Stat(filepath.Join(w.repo, "snapshots", "main", sid)); err == nil || sid == "" {
		w.t.Fatalf("session %q had ended before it was killed:\n%s", sid, &out)
	}
	quiet(w.t, w.Server)
	return sid
}

// incompressible fills a table of some 200 MB. Rows are updated by their number.
func incompressible(t *testing.T, w *world) {
	t.Helper()
	w.Exec(t, "CREATE EXTENSION pgcrypto")
	w.Exec(t, "CREATE TABLE big (id int PRIMARY KEY, v int, x bytea)")
	w.Exec(t, "ALTER TABLE big ALTER x SET STORAGE plain")
	w.Exec(t, "INSERT INTO big SELECT n, 0, gen_random_bytes(1000) FROM generate_series(1, 200000) n")
	w.Exec(t, "VACUUM FREEZE big")
	w.Exec(t, "CHECKPOINT")
}

func TestARerunOfAKilledBackupSendsNothingTwice(t *testing.T) {
	w := unarchived(t, "15", still(map[string]string{"max_wal_size": "4GB"}))
	incompressible(t, w)
	for _, c := range []struct {
		name   string
		change func()
		packs  int
	}{
		{"the first", func() {}, 4},
		{"an increment", func() { w.Exec(t, "UPDATE big SET v = v + 1, x = gen_random_bytes(1000) WHERE id % 2 = 0") }, 3},
	} {
		c.change()
		w.Exec(t, "CHECKPOINT")
		killed := w.uploadedBy(w.kill(c.packs))
		if killed.plain < int64(c.packs-1)*24<<20 {
			t.Errorf("%s: killed with %d bytes of pages uploaded", c.name, killed.plain)
		}
		m := w.freeze()
		again := w.uploadedBy(m.ID)
		if all := w.uploadedBy(""); all.twice() != 0 {
			t.Errorf("%s: of %d chunks, %d were uploaded twice", c.name, len(all.ids), all.twice())
		}
		if sum := again.plain + killed.plain; sum > m.ChangedPages*8192+m.ChangedPages*8192/100 {
			t.Errorf("%s: %d pages changed, and %d bytes of pages were uploaded, %d of them before it was killed",
				c.name, m.ChangedPages, sum, killed.plain)
		}
		drop(t, m.restored())
	}
}

// What is sent again is measured from outside: the pages that both runs uploaded, less those that the cluster has. Pages that
// changed between the two reads count as sent again too, so they must be few.
func TestARerunUnderLoadSendsLittleAgain(t *testing.T) {
	w := unarchived(t, "15", still(map[string]string{"max_wal_size": "4GB"}))
	incompressible(t, w)
	script := w.file("update.sql", []byte("\\set id random(1, 200000)\nUPDATE big SET v = v + 1 WHERE id = :id;\n"))
	bench := w.Command("pgbench", "-n", "-c", "2", "-R", "300", "-T", "120", "-f", script)
	if err := bench.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		_ = bench.Process.Signal(os.Interrupt)
		_ = bench.Wait()
	})
	t.Cleanup(end)
	killed := w.uploadedBy(w.kill(5))
	m := w.backup()
	end()
	again := w.uploadedBy(m.ID)
	pages := w.allPages()
	sent := killed.plain + again.plain - pages
	t.Logf("%d bytes of pages in the cluster, %d uploaded by the killed run, %d by the next: %.1f %% of the former again", pages, killed.plain, again.plain,
		100*float64(sent)/float64(killed.plain))
	if sent > killed.plain/10 {
		t.Errorf("of %d bytes that the killed run had uploaded, %d were sent again", killed.plain, sent)
	}
	dir := w.newDir()
	w.ok("restore", m.ID, "--no-recovery", "--to", dir)
	s := pgtest.Adopt(t, w.Version, dir)
	s.Start(t)
	sameRows(t, s, "SELECT count(*), count(DISTINCT id), min(length(x)) FROM big", "200000|200000|1000")
	sound(t, s)
}

// allPages is how many bytes of pages the cluster has that are not zero: what a snapshot of it stores in an empty repository.
func (w *world) allPages() int64 {
	w.t.Helper()
	of := *w
	of.repo, of.key = filepath.Join(w.dir, "whole.repo"), filepath.Join(w.dir, "whole.txt")
	w.ExtraEnv = of.env()
	defer func() { w.ExtraEnv = w.env() }()
	of.ok("init")
	s := of.backup()
	u := of.uploadedBy(s.ID)
	if u.twice() != 0 || u.plain > s.Size {
		w.t.Errorf("a first snapshot of %d bytes stored %d, %d chunks twice", s.Size, u.plain, u.twice())
	}
	return u.plain
}
