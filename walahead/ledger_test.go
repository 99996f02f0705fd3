package walahead

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func gap(n int) Gap {
	return Gap{Repo: "s3://b/p", Cluster: "main", System: 7, SegmentSize: 16 << 20, Timeline: 1, First: uint64(n), From: time.Unix(int64(n), 0).UTC(),
		Limit: 5, Waiting: int64(n), Error: fmt.Sprint("error ", n)}
}

func reread(t *testing.T, l *Ledger) *Ledger {
	t.Helper()
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	again, err := ReadLedger(filepath.Dir(l.path))
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestSegmentsThatAreGivenUpInARowAreOneGap(t *testing.T) {
	l, err := ReadLedger(t.TempDir())
	if err != nil || !l.Empty() {
		t.Fatal(err)
	}
	l.DropFile("00000002.history")
	l = reread(t, l)
	for _, n := range []int{4, 5, 5, 6, 9} { // 5 again: the server was killed before it took note
		l.Drop(gap(n))
		l = reread(t, l)
	}
	l.DropFile("x.backup")
	l.DropFile("x.backup")
	other := gap(10)
	other.Cluster = "other"
	l.Drop(other)
	l = reread(t, l)
	if len(l.Gaps) != 3 || l.Gaps[0].First != 4 || l.Gaps[0].Last != 6 || l.Gaps[1].First != 9 || l.Gaps[1].Last != 9 {
		t.Fatalf("%+v", l.Gaps)
	}
	if g := l.Gaps[0]; !g.From.Equal(time.Unix(4, 0)) || !g.To.Equal(time.Unix(6, 0)) || g.Waiting != 6 || g.Error != "error 6" || !slices.Equal(g.Files, []string{"00000002.history"}) {
		t.Errorf("%+v", g)
	}
	if g := l.Gaps[1]; !slices.Equal(g.Files, []string{"x.backup"}) {
		t.Errorf("%+v", g)
	}
	l.Gaps = nil
	if l = reread(t, l); !l.Empty() {
		t.Errorf("%+v", l)
	}
	if _, err := os.Stat(l.path); err == nil {
		t.Error("the file of an empty ledger stays")
	}
}

func TestADamagedLedgerIsNotAnEmptyOne(t *testing.T) {
	l, err := ReadLedger(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.Drop(gap(4))
	l = reread(t, l)
	text, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "{}", string(text[:len(text)/2]), string(text[:40]) + "x" + string(text[41:])} {
		if err := os.WriteFile(l.path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := ReadLedger(filepath.Dir(l.path)); !errors.Is(err, ErrLedger) {
			t.Errorf("%q: %+v, %v", bad, l, err)
		}
	}
}

func TestWaitingIsCountedNoFurtherThanNeeded(t *testing.T) {
	dir := t.TempDir()
	status := filepath.Join(dir, "archive_status")
	if _, err := Waiting(dir, 1); err == nil {
		t.Error("counted where there is nothing to count")
	}
	if err := os.Mkdir(status, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 2500 {
		if err := os.WriteFile(filepath.Join(status, fmt.Sprintf("%024X.ready", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(status, segment+".done"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Waiting(dir, 1<<30); n != 2500 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := Waiting(dir, 10); n < 10 || n > 1000 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if !Ready(dir, fmt.Sprintf("%024X", 7)) || Ready(dir, segment) {
		t.Error("ready")
	}
}
