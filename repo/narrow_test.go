package repo

import (
	"strings"
	"testing"
)

func TestNarrowingAsksForNothingButTheWAL(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(1, 3)
	sid, ids := backup(t, r, data)
	must(t, r.Narrow(t.Context(), sid))
	must(t, r.Narrow(t.Context(), sid)) // asked for again, it is as good
	m, err := r.marks(t.Context())
	if err != nil || !m.narrowed[sid] || len(m.narrowed) != 1 || len(m.forgotten) != 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	prune(t, r, pruning())
	if report := prune(t, r, pruning()); report.Valid != 1 || len(report.Expired) > 0 {
		t.Errorf("%+v", report)
	}
	check(t, r, ids, data)
	must(t, r.Pin(t.Context(), sid))
	must(t, r.Narrow(t.Context(), sid))
}

// TestOneRequestCannotBeTakenForAnother: a host may call its session as it likes, so that forgetting that would narrow another's snapshot.
func TestOneRequestCannotBeTakenForAnother(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	sid, _ := backup(t, r, pieces(2, 3))
	if err := r.Forget(t.Context(), sid+narrowSuffix); err == nil || !strings.Contains(err.Error(), sid) {
		t.Errorf("%v", err)
	}
	if m, err := r.marks(t.Context()); err != nil || len(m.narrowed)+len(m.forgotten) != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}
