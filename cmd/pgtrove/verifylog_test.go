package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/snapshot"
)

// longAfter is after every time that a test's log holds.
func longAfter() time.Time { return time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC) }

func nothing(string) bool    { return false }
func everything(string) bool { return true }

func readAt(k, n uint64, at time.Time) stretch {
	s := slice(k, n)
	s.Read = at
	return s
}

func TestWhatWasReadIsRememberedForEachScope(t *testing.T) {
	dir := t.TempDir()
	logs := []readLog{
		newReadLog(dir, "id", "here", "", nil), newReadLog(dir, "id", "here", "main", nil), newReadLog(dir, "other", "here", "", nil),
		newReadLog(dir, "id", "here", "", []*snapshot.Manifest{{ID: "a"}, {ID: "b"}}), newReadLog(dir, "id", "here", "", []*snapshot.Manifest{{ID: "a"}}),
		newReadLog(dir, "id", "there", "", nil), // a copy
	}
	for i, l := range logs {
		if c := l.load(longAfter()); len(c.Read)+len(c.Damaged) > 0 {
			t.Errorf("log %d begins with %v", i, c)
		}
		if _, err := l.add(readAt(uint64(i), 9, time.Date(2026, 3, 1+i, 0, 0, 0, 0, time.UTC)), longAfter(), nil, everything); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range logs {
		if c := l.load(longAfter()).Read; len(c) != 1 || c[0].From != slice(uint64(i), 9).From || c[0].Read.Day() != 1+i {
			t.Errorf("log %d is %v", i, c)
		}
	}
	if again := newReadLog(dir, "id", "here", "", []*snapshot.Manifest{{ID: "b"}, {ID: "a"}}); again != logs[3] {
		t.Errorf("%v", again)
	}
	for _, text := range []string{"", "{", `{"version":2,"read":[]}`, `{"version":1,"read":[{"from":5,"to":3}]}`, `{"version":1,"read":[{"from":0,"to":3},{"from":2,"to":9}]}`} {
		if err := os.WriteFile(logs[0].path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c := logs[0].load(longAfter()); c.Read != nil {
			t.Errorf("%q is believed: %v", text, c)
		}
	}
	if _, err := (readLog{}).add(slice(0, 1), longAfter(), nil, nothing); err == nil {
		t.Error("nothing was kept, and that is no error")
	}
	if _, err := os.Stat(filepath.Join(dir, "id", "main")); err == nil {
		t.Error("the log stands where the index cache of a cluster does")
	}
}

func TestWhatAClockThatRanAheadStampedIsReadAgain(t *testing.T) {
	l := newReadLog(t.TempDir(), "id", "here", "", nil)
	now := longAfter()
	for k, at := range []time.Time{now.Add(-2 * time.Hour), now.Add(-time.Hour), now.Add(24 * time.Hour)} {
		if _, err := l.add(readAt(uint64(k), 3, at), at, nil, nothing); err != nil {
			t.Fatal(err)
		}
	}
	if c := l.load(now).Read; c.left(3) != 1 || c.next(3) != 2 {
		t.Errorf("%v", c)
	}
}

// TestRunsAtOnceAddUp: each has loaded the log before the other saved.
func TestRunsAtOnceAddUp(t *testing.T) {
	dir := t.TempDir()
	now := longAfter()
	const runs = 20
	done := make(chan error)
	for k := range uint64(runs) {
		l := newReadLog(dir, "id", "here", "", nil)
		key := string(rune('a' + k))
		go func() {
			_, err := l.add(readAt(k, runs, now), now, []string{key}, func(other string) bool { return other == key })
			done <- err
		}()
	}
	for range runs {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	l := newReadLog(dir, "id", "here", "", nil)
	if r := l.load(now); r.Read.left(runs) != 0 || len(r.Damaged) != runs {
		t.Errorf("%v", r)
	}
}

func TestDamageIsReadInEveryRunUntilItIsSound(t *testing.T) {
	w := newRetainer(t)
	ids := w.days("main", 0, 2)
	files := map[string]int{w.walKey(1): 300, w.packsOf(ids[1], pack.Data)[0]: 100}
	for key, at := range files {
		w.alter(key, at)
	}
	o := verifyOptions{share: readShare{4}}
	known := map[string]bool{}
	for run := range 8 {
		sum, damage, code := w.verifies(o)
		if sum.Slice != uint64(run%4)+1 {
			t.Errorf("run %d reads slice %d", run, sum.Slice)
		}
		found := map[string]bool{}
		for _, d := range damage {
			found[d.Object] = true
		}
		for key := range known {
			if !found[key] {
				t.Errorf("run %d: %s was damaged, and no one mended it", run, key)
			}
		}
		known = found
		if code != codeDamaged && len(found) > 0 || code == codeDamaged && len(found) == 0 {
			t.Errorf("run %d: exit %d, %v", run, code, found)
		}
	}
	if len(known) != len(files) {
		t.Errorf("found %v of %v", known, files)
	}
	for key, at := range files {
		w.alter(key, at) // as it was
	}
	for range 2 {
		if _, damage, code := w.verifies(o); code != 0 {
			t.Errorf("mended: exit %d, %v", code, damage)
		}
	}
}

func TestACopyOfARepositoryIsReadForItself(t *testing.T) {
	w := newRetainer(t)
	w.days("main", 0, 1)
	o := verifyOptions{share: readShare{2}}
	var slicesRead []string
	for run := range 4 {
		w.place = []string{"here", "there"}[run%2]
		sum, _, code := w.verifies(o)
		if code != 0 || (sum.AllSince != nil) != (run >= 2) {
			t.Errorf("run %d: exit %d, %+v", run, code, sum)
		}
		slicesRead = append(slicesRead, string(rune('0'+sum.Slice)))
	}
	if got := strings.Join(slicesRead, ""); got != "1122" {
		t.Errorf("slices %s", got)
	}
}
