package repo

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/storage"
)

// packBytes is what all packs take.
func packBytes(t *testing.T, store storage.Store) (n int64) {
	t.Helper()
	must(t, store.List(t.Context(), packsPrefix, func(i storage.Info) error {
		n += i.Size
		return nil
	}))
	return n
}

// settlePrunes prunes until nothing is left to do. Each snapshot that stays is complete after each run.
func settlePrunes(t *testing.T, r *Repo, o PruneOptions, whole func()) {
	t.Helper()
	for range 10 {
		report := prune(t, r, o)
		whole()
		if report.Condemned.Packs+report.Swept.Packs == 0 {
			return
		}
	}
	t.Fatal("prunes find something to do for ever")
}

// A history of 50 snapshots, each with some pieces anew, of which a part is forgotten in some order, with prunes in between.
func TestWithoutALimitLittleThatNobodyNeedsIsLeft(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	for round := range 3 {
		f := newFixture(t)
		owner := f.open(t, f.store)
		data := pieces(byte(round+1), 120)
		type taken struct {
			sid  string
			ids  []chunk.ID
			data [][]byte
		}
		now := slices.Clone(data[:20])
		var all []taken
		for i := range 50 {
			now[r.IntN(len(now))] = data[20+2*i]
			now[r.IntN(len(now))] = data[21+2*i]
			k := taken{data: slices.Clone(now)}
			k.sid, k.ids = backup(t, owner, k.data)
			all = append(all, k)
		}
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		stay := 1 + r.IntN(len(all)/2)
		whole := func() {
			for _, k := range all[:min(stay, 4)] {
				check(t, owner, k.ids, k.data)
			}
		}
		o := pruning()
		o.MaxRepack = NoLimit
		for i, k := range all[stay:] {
			must(t, owner.Forget(t.Context(), k.sid))
			if i%7 == 3 {
				prune(t, owner, o)
				whole()
			}
		}
		settlePrunes(t, owner, o, whole)
		needed := map[chunk.ID]bool{}
		for _, k := range all[:stay] {
			for _, id := range k.ids {
				needed[id] = true
			}
		}
		stored, want := packBytes(t, f.store), int64(len(needed))*int64(len(data[0]))
		if float64(stored) > 1.05*float64(want) {
			t.Errorf("%d of 50 snapshots stay: %d bytes are stored for %d", stay, stored, want)
		}
		t.Logf("%d of 50 snapshots stay: %.4f", stay, float64(stored)/float64(want))
	}
}

func TestALimitedRunLeavesPacksThatAreMostlyAlive(t *testing.T) {
	f := newFixture(t)
	owner := f.open(t, f.store)
	data := pieces(3, 16)
	first, _ := backup(t, owner, data)
	_, ids := backup(t, owner, data[:12])
	must(t, owner.Forget(t.Context(), first))
	if report := prune(t, owner, pruning()); report.Repacked.Packs != 0 {
		t.Errorf("%+v", report)
	}
	o := pruning()
	o.MaxRepack = NoLimit
	if report := prune(t, owner, o); report.Repacked.Packs != 1 {
		t.Errorf("%+v", report)
	}
	check(t, owner, ids, data[:12])
}

// TestRepackingDoesNotRelyOnAPackThatTheSameRunCondemns: a chunk stands in a pack that is repacked, and in one in which nothing is counted as alive.
func TestRepackingDoesNotRelyOnAPackThatTheSameRunCondemns(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	data := pieces(40, 20)
	both := make([]string, 2)
	must(t, r.Write(t.Context(), options(), func(ctx context.Context, a *Session) error { // two at once store the same chunk
		return r.Write(ctx, options(), func(ctx context.Context, b *Session) error {
			both[0], both[1] = a.ID(), b.ID()
			ids := putAll(ctx, t, a, data[:10])
			others := putAll(ctx, t, b, append(slices.Clone(data[:1]), data[10:]...))
			must(t, commitIDs(ctx, a, ids))
			return commitIDs(ctx, b, others)
		})
	}))
	_, ids := backup(t, r, data[:1])
	for _, sid := range both {
		must(t, r.Forget(t.Context(), sid))
	}
	repacked := 0
	for range 4 {
		report := prune(t, r, pruning())
		if repacked += report.Repacked.Packs; report.Rescued.Packs > 0 {
			t.Errorf("%+v", report)
		}
		check(t, r, ids, data[:1])
	}
	if left := list(t, f.store, packsPrefix); repacked != 1 || len(left) != 1 {
		t.Errorf("repacked %d packs, left %v", repacked, left)
	}
}
