package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

func TestASnapshotThatAPruneHasEndedIsPinnedByItsFullID(t *testing.T) {
	w := newRetainer(t)
	days := w.days("main", 0, 1)
	first, second := days[0], days[1]
	w.must(w.open(w.store).Forget(t.Context(), first))
	w.prunes(2, 1)
	if got := w.sound(); !slices.Equal(got, []string{second}) {
		t.Fatalf("%v", got)
	}
	pin := func(id string) error { return w.pinExpired(t.Context(), w.open(w.store), id, snapshot.ErrNotFound) }
	for _, id := range []string{first[:len(first)-1], second, ""} {
		if err := pin(id); !errors.Is(err, snapshot.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	w.settings.Cluster = "other"
	if err := pin(first); !errors.Is(err, snapshot.ErrNotFound) {
		t.Error(err)
	}
	w.settings.Cluster = ""
	w.must(pin(first))
	if out, told := w.stdout.String(), w.stderr.String(); !strings.Contains(out, "pinned snapshot "+first+" of cluster main") || !strings.Contains(told, "the next prune that begins now brings it back") {
		t.Errorf("%q, %q", out, told)
	}
	w.prunes(3, 3)
	if got := w.sound(); len(got) != 2 {
		t.Errorf("%v", got)
	}
	if err := pin(first); !errors.Is(err, snapshot.ErrNotFound) || errors.Is(err, repo.ErrNotCounted) {
		t.Errorf("one that counts: %v", err)
	}
}
