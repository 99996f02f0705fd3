package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// errKilled is what every storage call answers to a session that was killed.
var errKilled = errors.New("killed")

// kill runs fn in a session that is killed when it has written that many packs, before it publishes any segment. It gives the
// session and its packs, in the order of their numbers.
func kill(t testing.TB, f fixture, o SessionOptions, packs int, fn func(ctx context.Context, s *Session) error) (sid string, keys []string) {
	t.Helper()
	dead := false
	store := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put && strings.HasPrefix(op.Key, packsPrefix) {
			dead = dead || packs == 0
			packs--
		}
		if dead || op.Verb == fault.Put && strings.HasPrefix(op.Key, indexPrefix) {
			return fault.Action{Before: errKilled}
		}
		return fault.Action{}
	})
	err := f.open(t, store).Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		sid = s.ID()
		if err := fn(ctx, s); err != nil {
			return err
		}
		return s.Flush(ctx)
	})
	if !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	keys = packsOf(t, f.store, sid)
	number := func(key string) int {
		p, ok := parsePackKey(key)
		if !ok {
			t.Fatal(key)
		}
		return int(p.n)
	}
	slices.SortFunc(keys, func(a, b string) int { return number(a) - number(b) })
	return sid, keys
}

// chunksOf gives what stands in packs, in order.
func chunksOf(t testing.TB, r *Repo, keys []string) (ids []chunk.ID) {
	t.Helper()
	for _, key := range keys {
		dir, err := r.PackDirectory(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range dir.Entries {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

func sorted(ids []chunk.ID) []chunk.ID {
	return slices.SortedFunc(slices.Values(ids), func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
}

// leftoversOf gives the chunks of Leftovers, and compares their digests with those of the runs.
func leftoversOf(t testing.TB, s *Session, runs []run) (ids []chunk.ID) {
	t.Helper()
	want := map[chunk.ID][]chunk.Prefix{}
	for _, r := range runs {
		want[r.id] = r.prefixes
	}
	err := s.Leftovers(t.Context(), func(id chunk.ID, form chunk.Form, digests []chunk.Prefix) error {
		if ids = append(ids, id); form != testForm || !slices.Equal(digests, want[id]) {
			t.Errorf("leftover %s: form %d, %d digests", id.Short(), form, len(digests))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// checkRuns reads every run through a fresh view.
func checkRuns(t *testing.T, r *Repo, runs []run) {
	t.Helper()
	check(t, r, runIDs(runs), plainOf(runs))
	checkDigests(t, openView(t, r, ""), runs)
}

func TestARerunOfAKilledSessionStoresNoChunkAgain(t *testing.T) {
	for _, durable := range []int{0, 1, 13, 17} {
		for _, cache := range []string{"", t.TempDir()} {
			t.Run(fmt.Sprintf("%d packs, cache %v", durable, cache != ""), func(t *testing.T) { rerun(t, durable, cache) })
		}
	}
}

func rerun(t *testing.T, durable int, cache string) {
	f := newFixture(t)
	r := f.open(t, f.store)
	r.config.Params.PackSize = 1 << 18 // so many packs that their numbers do not sort as text
	runs := makeRuns(r, 1, 70)
	killed, keys := kill(t, f, at(0, cache), durable, func(ctx context.Context, s *Session) error {
		s.repo.config.Params.PackSize = 1 << 18
		return writing(runs)(ctx, s)
	})
	if len(keys) != durable || count(t, f.store, indexPrefix) != 0 {
		t.Fatalf("%d packs and %d segments", len(keys), count(t, f.store, indexPrefix))
	}
	there := chunksOf(t, r, keys)
	var fresh int64
	sid := commit(t, r, at(1, cache), func(ctx context.Context, s *Session) error {
		if got := leftoversOf(t, s, runs); !slices.Equal(got, there) {
			t.Errorf("leftovers: %d, want %d, or in another order", len(got), len(there))
		}
		if a := s.Added(); a != (Added{}) {
			t.Errorf("what was there counts as added: %+v", a)
		}
		err := errors.Join(writing(runs)(ctx, s), s.Flush(ctx))
		fresh = s.Added().Plain
		return err
	})
	again := chunksOf(t, r, packsOf(t, f.store, sid))
	twice := slices.ContainsFunc(again, func(id chunk.ID) bool { return slices.Contains(there, id) })
	if twice || len(again)+len(there) != len(runs) {
		t.Errorf("%d chunks were stored, %d were there, some twice: %v", len(again), len(there), twice)
	}
	if want := int64(len(runs)-len(there)) * 64 << 10; fresh != want {
		t.Errorf("%d plain bytes added, want %d", fresh, want)
	}
	// Nothing depends on the killed session any more.
	if err := f.store.Delete(t.Context(), sessionsPrefix+killed); err != nil {
		t.Fatal(err)
	}
	checkRuns(t, r, runs)
	commit(t, r, at(2, cache), func(_ context.Context, s *Session) error {
		if got := leftoversOf(t, s, nil); got != nil {
			t.Errorf("%d leftovers after the commit", len(got))
		}
		return nil
	})
}

// end writes an outcome as somebody else.
func end(t *testing.T, f fixture, r *Repo, cluster, sid, what string) {
	t.Helper()
	key := snapshotsPrefix + cluster + "/" + sid
	if err := f.store.Put(t.Context(), key, r.seal(kindOutcome, key, fmt.Appendf(nil, `{"version":1,"outcome":%q,"nonce":"other"}`, what))); err != nil {
		t.Fatal(err)
	}
}

func TestWhichSessionsLeaveSomething(t *testing.T) {
	none := func(context.Context, *Session) error { return nil }
	for what, c := range map[string]struct {
		cluster string // of the killed session
		before  func(t *testing.T, f fixture, r *Repo)
		after   func(t *testing.T, f fixture, r *Repo, killed string)
		want    bool
	}{
		"killed":                  {want: true},
		"killed in other cluster": {cluster: "other"},
		"killed after a snapshot": {want: true, before: func(t *testing.T, f fixture, r *Repo) { commit(t, r, at(0, ""), none) }},
		"fenced": {after: func(t *testing.T, f fixture, r *Repo, killed string) {
			end(t, f, r, "main", killed, outcomeFenced)
		}},
		"forgotten": {after: func(t *testing.T, f fixture, r *Repo, killed string) {
			replace(t, f.store, sessionsPrefix+killed, func([]byte) []byte { return nil })
		}},
		"with a damaged announcement": {after: func(t *testing.T, f fixture, r *Repo, killed string) {
			replace(t, f.store, sessionsPrefix+killed, func(b []byte) []byte { return b[:20] })
		}},
		"older than a snapshot": {after: func(t *testing.T, f fixture, r *Repo, _ string) {
			commit(t, r, at(2, ""), none)
		}},
		"older than a snapshot of another cluster": {want: true, after: func(t *testing.T, f fixture, r *Repo, _ string) {
			o := at(2, "")
			o.Cluster = "other"
			commit(t, r, o, none)
		}},
		"older than a fenced session": {want: true, after: func(t *testing.T, f fixture, r *Repo, _ string) {
			o := at(2, "")
			_ = r.Write(t.Context(), o, func(_ context.Context, s *Session) error {
				end(t, f, r, "main", s.ID(), outcomeFenced)
				return nil
			})
		}},
		"older than a snapshot that does not count": {want: true, after: func(t *testing.T, f fixture, r *Repo, _ string) {
			sid := commit(t, r, at(2, ""), none)
			for _, key := range []string{sessionsPrefix + sid, indexPrefix + sid + "/0"} {
				replace(t, f.store, key, func([]byte) []byte { return nil })
			}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			r := f.open(t, f.store)
			if c.before != nil {
				c.before(t, f, r)
			}
			o := at(1, "")
			if c.cluster != "" {
				o.Cluster = c.cluster
			}
			runs := makeRuns(r, 1, 40)
			killed, keys := kill(t, f, o, 2, writing(runs))
			if c.after != nil {
				c.after(t, f, r, killed)
			}
			commit(t, r, at(3, ""), func(_ context.Context, s *Session) error {
				if got := leftoversOf(t, s, runs); c.want && len(got) != len(chunksOf(t, r, keys)) || !c.want && got != nil {
					t.Errorf("%d leftovers", len(got))
				}
				return nil
			})
		})
	}
}

// The second of two killed sessions names the packs of the first, and is killed in its turn, with and without a segment.
func TestARerunThatIsKilledTooLosesNothing(t *testing.T) {
	for _, published := range []bool{false, true} {
		f := newFixture(t)
		r := f.open(t, f.store)
		runs := makeRuns(r, 1, 90)
		var keys []string
		for n := range 2 {
			_, more := kill(t, f, at(n, ""), 2, writing(runs))
			keys = append(keys, more...)
		}
		if published {
			giveUp := errors.New("give up")
			err := r.Write(t.Context(), at(2, ""), func(ctx context.Context, s *Session) error {
				return errors.Join(writing(runs[:70])(ctx, s), s.Flush(ctx), giveUp)
			})
			if !errors.Is(err, giveUp) || count(t, f.store, indexPrefix) != 1 {
				t.Fatalf("%v, %d segments", err, count(t, f.store, indexPrefix))
			}
		}
		there := chunksOf(t, r, keys)
		if published {
			// Which packs a killed session gets written is a race of its uploaders: some may hold later runs.
			there = append(there, runIDs(runs[:70])...)
			slices.SortFunc(there, func(a, b chunk.ID) int { return slices.Compare(a[:], b[:]) })
			there = slices.Compact(there)
		}
		sid := commit(t, r, at(3, ""), func(ctx context.Context, s *Session) error {
			got := leftoversOf(t, s, runs)
			if !slices.Equal(sorted(got), sorted(there)) {
				t.Errorf("published %v: %d leftovers, want %d", published, len(got), len(there))
			}
			return writing(runs)(ctx, s)
		})
		if stored := len(chunksOf(t, r, packsOf(t, f.store, sid))); stored != len(runs)-len(there) {
			t.Errorf("published %v: %d chunks stored, %d of %d were there", published, stored, len(there), len(runs))
		}
		checkRuns(t, r, runs)
	}
}

func TestPacksThatDoNotOpenAreLeftAlone(t *testing.T) {
	base := newFixture(t)
	r := base.open(t, base.store)
	runs := makeRuns(r, 1, 70)
	_, keys := kill(t, base, at(1, ""), 3, writing(runs))
	foreign, err := base.store.Get(t.Context(), keys[0], storage.Range{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	damages := packDamages(t, foreign)
	damages["without a piece of a chunk"] = func(b []byte) []byte { return slices.Delete(b, 1000, 1100) }
	damages["with more"] = func(b []byte) []byte { return slices.Insert(b, 1000, make([]byte, 100)...) }
	for what, damage := range damages {
		f := fixture{cloneStore(t, base.store), base.id}
		r := f.open(t, f.store)
		replace(t, f.store, keys[1], damage)
		for _, name := range []string{"x", "3", "-", "3-", "3-00", "x-" + strings.Repeat("00", 32), "7-" + strings.Repeat("zz", 32), "8-" + strings.Repeat("00", 32)} {
			if err := f.store.Put(t.Context(), packsPrefix+strings.Split(keys[0], "/")[1]+"/"+name, []byte("something")); err != nil {
				t.Fatal(err)
			}
		}
		good := chunksOf(t, r, []string{keys[0], keys[2]})
		opens := what == "a flipped bit in the digests" // its chunks are good, and only its digests are not
		sid := commit(t, r, at(2, ""), func(ctx context.Context, s *Session) error {
			if got := leftoversOf(t, s, runs); !slices.Equal(got, good) {
				t.Errorf("%s: %d leftovers, want %d", what, len(got), len(good))
			}
			return writing(runs)(ctx, s)
		})
		named := segmentOf(t, r, sid)
		if slices.Contains(named, keys[1]) != opens || !slices.Contains(named, keys[0]) || !slices.Contains(named, keys[2]) {
			t.Errorf("%s: the segment names %q", what, named)
		}
		check(t, r, runIDs(runs), plainOf(runs))
	}
}

func plainOf(runs []run) (plain [][]byte) {
	for _, r := range runs {
		plain = append(plain, r.plain)
	}
	return plain
}

// segmentOf gives the packs that a session's segments name.
func segmentOf(t testing.TB, r *Repo, sid string) (keys []string) {
	t.Helper()
	err := r.List(t.Context(), indexPrefix+sid+"/", func(key string, _ int64) error {
		b, err := r.Payload(t.Context(), key)
		if err != nil {
			return err
		}
		s, err := index.Parse(b)
		if err != nil {
			return err
		}
		for _, p := range s.Packs {
			keys = append(keys, p.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestAPackThatVanishesMeanwhileIsLeftAlone(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	runs := makeRuns(r, 1, 70)
	_, keys := kill(t, f, at(1, ""), 3, writing(runs))
	var mu sync.Mutex
	gone := keys[1]
	store := fault.New(f.store, func(op fault.Op) fault.Action {
		mu.Lock()
		defer mu.Unlock()
		if op.Verb == fault.Get && op.Key == gone {
			return fault.Action{Before: storage.ErrNotExist}
		}
		return fault.Action{}
	})
	commit(t, f.open(t, store), at(2, ""), func(ctx context.Context, s *Session) error {
		if got := leftoversOf(t, s, runs); !slices.Equal(got, chunksOf(t, r, []string{keys[0], keys[2]})) {
			t.Errorf("%d leftovers", len(got))
		}
		mu.Lock()
		gone = keys[2]
		mu.Unlock()
		if got := leftoversOf(t, s, runs); !slices.Equal(got, chunksOf(t, r, keys[:1])) {
			t.Errorf("%d leftovers when another one is gone", len(got))
		}
		return nil
	})
}

func TestASessionThatStillRunsDoesNotMindBeingAdopted(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	runs := makeRuns(r, 1, 70)
	commit(t, r, at(0, ""), func(ctx context.Context, s *Session) error {
		if err := writing(runs[:40])(ctx, s); err != nil {
			return err
		}
		if err := s.book.wait(ctx); err != nil {
			return err
		}
		commit(t, r, at(1, ""), func(ctx context.Context, second *Session) error {
			if got := leftoversOf(t, second, runs); len(got) < 20 {
				t.Errorf("%d leftovers", len(got))
			}
			return writing(runs)(ctx, second)
		})
		return writing(runs)(ctx, s)
	})
	if got := commits(t, r); len(got) != 2 {
		t.Errorf("committed: %v", got)
	}
	checkRuns(t, r, runs)
}

// Where every session has an outcome, a session asks the storage for nothing that it did not need for its view.
func TestLookingForLeftoversCostsNothingWhereThereAreNone(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	for n := range 3 {
		commit(t, r, at(n, ""), writing(makeRuns(r, byte(n), 20)))
	}
	calls := map[string]int{}
	store := fault.New(f.store, func(op fault.Op) fault.Action {
		kind, _, _ := strings.Cut(op.Key, "/")
		calls[string(op.Verb)+" "+kind]++
		return fault.Action{}
	})
	r = f.open(t, store)
	clear(calls)
	began := map[string]int{}
	commit(t, r, at(4, ""), func(ctx context.Context, s *Session) error {
		err := s.Leftovers(ctx, func(chunk.ID, chunk.Form, []chunk.Prefix) error { return errors.New("there is one") })
		began = maps.Clone(calls)
		return err
	})
	want := map[string]int{"list gc": 3, "put sessions": 1, "list index": 1, "list sessions": 1, "list snapshots": 1, "list forget": 1, "get snapshots": 3, "get index": 3}
	if !maps.Equal(began, want) {
		t.Errorf("%v, want %v", began, want)
	}
}

// Killed sessions may have left more than one segment can name.
func TestManyLeftoversAreNamedInSeveralSegments(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	fill := func(ctx context.Context, s *Session, seed byte) error {
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		b := []byte{8: seed}
		for i := range uint64(publishChunks * 2 / 3) {
			binary.BigEndian.PutUint64(b, i)
			if _, err := w.Meta(ctx, b); err != nil {
				return err
			}
		}
		return nil
	}
	kill(t, f, at(0, ""), 99, func(ctx context.Context, s *Session) error {
		kill(t, f, at(1, ""), 99, func(ctx context.Context, s *Session) error { return fill(ctx, s, 1) })
		return fill(ctx, s, 2)
	})
	packs := count(t, f.store, packsPrefix)
	sid := commit(t, r, at(2, ""), func(ctx context.Context, s *Session) error {
		if n := count(t, f.store, indexPrefix); n != 1 {
			t.Errorf("%d segments when the session begins", n)
		}
		if got := leftoversOf(t, s, nil); got != nil {
			t.Errorf("%d leftovers of metadata", len(got))
		}
		return errors.Join(fill(ctx, s, 1), fill(ctx, s, 2))
	})
	if own := packsOf(t, f.store, sid); len(own) > 0 {
		t.Errorf("%d packs were stored", len(own))
	}
	if named := segmentOf(t, r, sid); len(named) != packs {
		t.Errorf("%d packs are named, of %d", len(named), packs)
	}
}
