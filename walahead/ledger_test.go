package walahead

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func place(repo string) Target { return Target{Repo: repo, Cluster: "main", System: 7} }

func gap(n int) Gap {
	return Gap{Target: place("s3://b/p"), SegmentSize: 16 << 20, Timeline: 1, First: uint64(n), From: time.Unix(int64(n), 0).UTC(),
		Limit: 5, Waiting: int64(n), Error: fmt.Sprint("error ", n)}
}

func history(repo string) File { return File{Target: place(repo), Name: "00000002.history"} }

// change changes the ledger and reads it again.
func change(t *testing.T, dir string, f func(*Ledger)) *Ledger {
	t.Helper()
	err := ChangeLedger(dir, func(l *Ledger) error {
		f(l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ReadLedger(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSegmentsThatAreGivenUpInARowAreOneGap(t *testing.T) {
	dir := t.TempDir()
	if l, err := ReadLedger(dir); err != nil || !l.Empty() {
		t.Fatal(err)
	}
	other := gap(10)
	other.Cluster = "other"
	var l *Ledger
	for _, n := range []int{4, 5, 5, 6, 9} { // 5 again: the server was killed before it took note
		change(t, dir, func(l *Ledger) { l.Drop(gap(n)) })
		other.First = uint64(n)
		l = change(t, dir, func(l *Ledger) { l.Drop(other) }) // another target's between them
	}
	mine, files := l.Of(gap(1).Target)
	if len(l.Gaps) != 4 || len(mine) != 2 || len(files) != 0 || mine[0].First != 4 || mine[0].Last != 6 || mine[1].First != 9 || mine[1].Last != 9 {
		t.Fatalf("%+v", l.Gaps)
	}
	if g := mine[0]; !g.From.Equal(time.Unix(4, 0)) || !g.To.Equal(time.Unix(6, 0)) || g.Waiting != 6 || g.Error != "error 6" {
		t.Errorf("%+v", g)
	}
	l = change(t, dir, func(l *Ledger) { l.Gaps = nil })
	if !l.Empty() {
		t.Errorf("%+v", l)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("of an empty ledger %v stays, %v", left, err)
	}
}

func TestWhatIsKnownOfOneTargetSaysNothingOfAnother(t *testing.T) {
	dir := t.TempDir()
	a, b := place("/a"), place("/b")
	at := time.Unix(100, 0).UTC()
	l := change(t, dir, func(l *Ledger) {
		l.DropFile(history(a.Repo))
		l.DropFile(history(b.Repo))
		l.DropFile(history(b.Repo))
		l.Failed(Try{Target: a, At: at.Add(-time.Hour)})
		l.Failed(Try{Target: a, At: at, Full: true, Error: "full"})
	})
	if len(l.Files) != 2 || len(l.Tries) != 1 || l.LastTry(a) != (Try{a, at, true, "full"}) || l.LastTry(b) != (Try{Target: b}) {
		t.Errorf("%+v", l)
	}
	l = change(t, dir, func(l *Ledger) {
		l.Forget(history(b.Repo))
		l.Answered(Try{Target: b, At: at})
		l.Answered(Try{Target: a, At: at.Add(-1)}) // it has failed again since
	})
	if len(l.Files) != 1 || l.Files[0] != history(a.Repo) || len(l.Tries) != 1 {
		t.Errorf("%+v", l)
	}
	if l = change(t, dir, func(l *Ledger) { l.Answered(l.LastTry(a)) }); len(l.Tries) != 0 {
		t.Errorf("%+v", l)
	}
}

func TestOnlyWhatWasNotedLeavesTheLedger(t *testing.T) {
	whole := gap(4)
	whole.Last, whole.To = 9, time.Unix(9, 0).UTC()
	for _, c := range []struct {
		first, last uint64
		left        [][2]uint64
	}{{4, 9, nil}, {3, 12, nil}, {4, 6, [][2]uint64{{7, 9}}}, {6, 9, [][2]uint64{{4, 5}}}, {6, 6, [][2]uint64{{4, 5}, {7, 9}}}, {1, 3, [][2]uint64{{4, 9}}}, {10, 12, [][2]uint64{{4, 9}}}} {
		noted := gap(0)
		noted.First, noted.Last = c.first, c.last
		foreign := noted
		foreign.Repo = "s3://other"
		l := &Ledger{Gaps: []Gap{whole}}
		l.Noted(foreign)
		l.Noted(noted)
		var left [][2]uint64
		for _, g := range l.Gaps {
			left = append(left, [2]uint64{g.First, g.Last})
		}
		if fmt.Sprint(left) != fmt.Sprint(c.left) {
			t.Errorf("%d to %d noted: %v stay, want %v", c.first, c.last, left, c.left)
		}
	}
}

func TestChangesOfTheLedgerComeOneAfterAnother(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			err := ChangeLedger(dir, func(l *Ledger) error {
				l.Drop(gap(3 * n))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l, err := ReadLedger(dir); err != nil || len(l.Gaps) != 50 {
		t.Errorf("of 50 gaps %d are there, %v", len(l.Gaps), err)
	}
}

func TestAChangeThatFailsChangesNothing(t *testing.T) {
	dir := t.TempDir()
	change(t, dir, func(l *Ledger) { l.Drop(gap(4)) })
	failed := errors.New("failed")
	err := ChangeLedger(dir, func(l *Ledger) error {
		l.Gaps = nil
		return failed
	})
	if l, rerr := ReadLedger(dir); !errors.Is(err, failed) || rerr != nil || len(l.Gaps) != 1 {
		t.Errorf("%v, %+v, %v", err, l, rerr)
	}
}

func TestADamagedLedgerIsNotAnEmptyOne(t *testing.T) {
	dir := t.TempDir()
	change(t, dir, func(l *Ledger) { l.Drop(gap(4)) })
	path := filepath.Join(dir, LedgerFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{}", string(text[:len(text)/2]), string(text[:40]) + "x" + string(text[41:])} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := ReadLedger(dir); !errors.Is(err, ErrLedger) {
			t.Errorf("%q: %+v, %v", bad, l, err)
		}
		err := ChangeLedger(dir, func(l *Ledger) error {
			l.Drop(gap(5))
			return nil
		})
		if now, rerr := os.ReadFile(path); !errors.Is(err, ErrLedger) || rerr != nil || string(now) != bad {
			t.Errorf("%q became %q: %v, %v", bad, now, err, rerr)
		}
	}
}
