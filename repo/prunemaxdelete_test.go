package repo

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestMaxDeleteLooksAtPacksAndWALTogether(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	w.backup(t, 9)
	must(t, w.store.Put(t.Context(), walDir+"001x", make([]byte, 1<<20)))
	o := w.pruning()
	o.WAL = func(context.Context, []Commit, []Commit) (WALJudge, error) {
		return func(context.Context, string) (WALUse, bool, error) { return WALUnneeded, true, nil }, nil
	}
	prune(t, w.r, o)
	o.MaxDelete = 0.5
	var much *TooMuchError
	report, err := w.r.Prune(t.Context(), o)
	if !errors.As(err, &much) || !much.WAL || report == nil || much.Swept.Bytes < 1<<20 || much.Stored.Bytes <= much.Swept.Bytes {
		t.Fatalf("%v, %+v", err, much)
	}
	if n := len(list(t, w.store, walDir)); n != 10 {
		t.Errorf("%d files are left", n)
	}
	o.MaxDelete, o.DryRun = 1, true
	report = prune(t, w.r, o)
	if n := len(list(t, w.store, walDir)); n != 10 || WALAmount(report.WALSwept).Packs != 10 {
		t.Errorf("a dry run: %d files are left, %+v", n, report.WALSwept)
	}
}

func TestMaxDeleteDoesNotCountWhatOthersReplaced(t *testing.T) {
	w := newWALWorld(t)
	putWAL(t, w.store, upTo(9)...)
	w.backup(t, 5)
	for n := 1; n <= 9; n++ {
		must(t, w.store.Put(t.Context(), walFile(n)+".part/x", make([]byte, 1<<20)))
	}
	o := w.pruning()
	before := o.WAL
	o.WAL = func(ctx context.Context, staying, leaving []Commit) (WALJudge, error) {
		judge, err := before(ctx, staying, leaving)
		return func(ctx context.Context, key string) (WALUse, bool, error) {
			if strings.HasSuffix(key, ".part/x") {
				return WALReplaced, true, nil
			}
			return judge(ctx, key)
		}, err
	}
	o.MaxDelete = 0.5
	if r := prune(t, w.r, o); WALAmount(r.WALCondemned).Packs != 4+9 || len(r.WALSwept) > 0 {
		t.Errorf("condemned %+v, deleted %+v", r.WALCondemned, r.WALSwept)
	}
	if r := prune(t, w.r, o); WALAmount(r.WALSwept).Packs != 4+9 {
		t.Errorf("deleted %+v", r.WALSwept)
	}
	if left := list(t, w.store, walDir); len(left) != 5 {
		t.Errorf("left: %v", left)
	}

	// It makes room for nothing else, either.
	must(t, w.store.Put(t.Context(), walFile(1), make([]byte, 1<<20)))
	must(t, w.store.Put(t.Context(), walFile(9)+".part/x", make([]byte, 8<<20)))
	if _, err := w.r.Prune(t.Context(), o); !errors.As(err, new(*TooMuchError)) {
		t.Error(err)
	}
}
