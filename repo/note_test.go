package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/storage/storagetest"
)

// at is a session of the cluster that begins n minutes after the first one.
func at(n int, cacheDir string) SessionOptions {
	o := options()
	begin := time.Date(2026, 1, 2, 3, n, 0, 0, time.UTC)
	o.CacheDir, o.Now = cacheDir, func() time.Time { return begin }
	return o
}

// commit runs fn in a session that commits.
func commit(t testing.TB, r *Repo, o SessionOptions, fn func(ctx context.Context, s *Session) error) (sid string) {
	t.Helper()
	err := r.Write(t.Context(), o, func(ctx context.Context, s *Session) error {
		sid = s.ID()
		if err := fn(ctx, s); err != nil {
			return err
		}
		return s.Commit(ctx, []byte("1"))
	})
	if err != nil {
		t.Fatal(err)
	}
	return sid
}

func name(n byte) chunk.ID { return chunk.ID{0: 0xee, 31: n} }

// recalled says which of the notes 0 to 9 are there, with what they said.
func recalled(s *Session) string {
	out := ""
	for n := range byte(10) {
		if b := s.Recall(name(n), nil); b != nil {
			out += fmt.Sprintf("%d=%s ", n, b)
		}
	}
	return out
}

func TestWhatWasRememberedIsRecalled(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := t.TempDir()
	large := pieces(1, 1)[0]
	check := func(s *Session) {
		t.Helper()
		if got := recalled(s); got != "1=one 2= " {
			t.Errorf("recalled: %q", got)
		}
		if !bytes.Equal(s.Recall(name(11), nil), large) {
			t.Error("the large note differs")
		}
		if got := s.Recall(name(1), []byte("dst ")); string(got) != "dst one" {
			t.Errorf("%q", got)
		}
		if got := s.Recall(name(12), []byte("dst ")); got != nil {
			t.Errorf("more than there is room for: %d bytes", len(got))
		}
	}
	commit(t, r, at(0, cache), func(_ context.Context, s *Session) error {
		s.Remember(name(1), []byte("none"))
		s.Remember(name(1), []byte("one"))
		s.Remember(name(2), nil)
		s.Remember(name(11), large)
		s.Remember(name(12), append(large[:len(large):len(large)], 0))
		check(s)
		return nil
	})
	commit(t, r, at(1, cache), func(_ context.Context, s *Session) error { check(s); return nil })
	if entries, err := os.ReadDir(filepath.Join(cache, r.Config().ID, "main")); err != nil || len(entries) != 3 { // lock, database, large notes
		t.Errorf("the cache is not where it should be: %v, %v", entries, err)
	}
	o := at(2, cache)
	o.Cluster = "other"
	commit(t, r, o, func(_ context.Context, s *Session) error {
		if got := recalled(s); got != "" {
			t.Errorf("another cluster recalls: %q", got)
		}
		return nil
	})
}

func TestACommitSweepsTheNotesThatNobodyTouched(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := t.TempDir()
	remember := func(_ context.Context, s *Session) error {
		for n := range byte(6) {
			s.Remember(name(n), []byte("x"))
		}
		return nil
	}
	look := func(what, want string) {
		t.Helper()
		commit := errors.New("not committed")
		err := r.Write(t.Context(), at(9, cache), func(_ context.Context, s *Session) error {
			if got := recalled(s); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
			return commit
		})
		if !errors.Is(err, commit) {
			t.Fatal(err)
		}
	}
	all := "0=x 1=x 2=x 3=x 4=x 5=x "
	commit(t, r, at(0, cache), remember)
	look("after the first commit", all)
	// Neither of these knows what the next session needs.
	if err := r.Write(t.Context(), at(1, cache), func(context.Context, *Session) error { return nil }); err != nil {
		t.Fatal(err)
	}
	look("after a session without commit", all)
	err := r.Write(t.Context(), at(2, cache), func(ctx context.Context, s *Session) error {
		key := s.outcomeKey()
		if err := f.store.Put(ctx, key, r.seal(kindOutcome, key, []byte(`{"version":1,"outcome":"FENCED","nonce":"other"}`))); err != nil {
			return err
		}
		return s.Commit(ctx, []byte("1"))
	})
	if !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	look("after a fenced session", all)
	err = r.Write(t.Context(), at(3, cache), func(ctx context.Context, s *Session) error {
		return errors.Join(f.store.Delete(ctx, sessionsPrefix+s.ID()), s.Commit(ctx, []byte("1")))
	})
	if !errors.Is(err, ErrFenced) {
		t.Fatal(err)
	}
	look("after a session that was forgotten before it had confirmed its commit", all)
	commit(t, r, at(4, cache), func(ctx context.Context, s *Session) error {
		s.Recall(name(0), nil)
		s.Remember(name(2), []byte("y"))
		s.Keep(name(4))
		_, err := s.Missing(ctx, name(5), func(context.Context) ([]chunk.ID, error) { return nil, nil })
		return err
	})
	look("after the second commit", "2=y 4=x 5=x ")
}

func TestNotesThatDoNotVerifyAreAbsent(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := t.TempDir()
	other := newNotes(chunk.Key{1})
	commit(t, r, at(0, cache), func(_ context.Context, s *Session) error {
		raw := func(n byte) []byte {
			b, err := s.view.cache.Note(name(n), nil)
			if err != nil || len(b) < noteMACSize {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			return b
		}
		fresh := func() {
			s.Remember(name(1), []byte("something true"))
			s.Remember(name(2), []byte("something else"))
		}
		fresh()
		good := raw(1)
		mac := other.mac(name(1), []byte("something true"))
		bad := map[string][]byte{
			"another note's": raw(2), "empty": {}, "cut to its MAC": good[:noteMACSize], "without its end": good[:len(good)-1],
			"without its start": good[1:], "with more": append(slices.Clone(good), 0),
			"of another repository": append(mac[:], "something true"...),
		}
		for i := range good {
			b := slices.Clone(good)
			b[i] ^= 0x40
			bad[fmt.Sprintf("with byte %d changed", i)] = b
		}
		for what, b := range bad {
			if err := s.view.cache.PutNote(name(1), b); err != nil {
				t.Fatal(err)
			}
			if got := s.Recall(name(1), []byte("dst")); got != nil {
				t.Errorf("a note %s is believed: %q", what, got)
			}
		}
		if err := s.view.cache.PutNote(name(1), good); err != nil {
			t.Fatal(err)
		}
		if got := s.Recall(name(1), nil); string(got) != "something true" {
			t.Errorf("the note itself: %q", got)
		}
		return nil
	})
}

// Two repositories, the cache directory of one put in the other's place.
func TestTheCacheOfAnotherRepositoryIsNotBelieved(t *testing.T) {
	cache := t.TempDir()
	var repos []*Repo
	for range 2 {
		f := newFixture(t)
		repos = append(repos, f.open(t, f.store))
	}
	ids := func(context.Context) ([]chunk.ID, error) { return []chunk.ID{name(99)}, nil }
	commit(t, repos[0], at(0, cache), func(ctx context.Context, s *Session) error {
		s.Remember(name(1), []byte("x"))
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		id, err := w.Bytes(ctx, []byte("content"))
		if err != nil {
			return err
		}
		if err := s.Flush(ctx); err != nil {
			return err
		}
		missing, err := s.Missing(ctx, name(7), func(context.Context) ([]chunk.ID, error) { return []chunk.ID{id}, nil })
		if len(missing) > 0 {
			t.Errorf("missing: %v", missing)
		}
		return err
	})
	if err := os.Rename(filepath.Join(cache, repos[0].Config().ID), filepath.Join(cache, repos[1].Config().ID)); err != nil {
		t.Fatal(err)
	}
	commit(t, repos[1], at(1, cache), func(ctx context.Context, s *Session) error {
		if got := recalled(s); got != "" {
			t.Errorf("recalled: %q", got)
		}
		missing, err := s.Missing(ctx, name(7), ids)
		if len(missing) != 1 {
			t.Errorf("missing: %v", missing)
		}
		return err
	})
}

// The second of two backups on one host works in a directory of its own: it recalls nothing, and takes nothing away.
func TestTwoSessionsAtOnceDoNotDisturbEachOthersNotes(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := t.TempDir()
	commit(t, r, at(0, cache), func(ctx context.Context, s *Session) error {
		s.Remember(name(1), []byte("x"))
		commit(t, r, at(1, cache), func(_ context.Context, second *Session) error {
			if got := recalled(second); got != "" {
				t.Errorf("recalled: %q", got)
			}
			second.Remember(name(2), []byte("y"))
			if got := recalled(second); got != "2=y " {
				t.Errorf("recalled from a directory of its own: %q", got)
			}
			return nil
		})
		return nil
	})
	commit(t, r, at(2, cache), func(_ context.Context, s *Session) error {
		if got := recalled(s); got != "1=x " {
			t.Errorf("recalled: %q", got)
		}
		return nil
	})
}

func TestACacheWithoutRoomForNotesFailsNoBackup(t *testing.T) {
	if !storagetest.CanMount(t) {
		return
	}
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := storagetest.Tmpfs(t, "size=220m") // enough for the index
	commit(t, r, at(0, cache), func(ctx context.Context, s *Session) error {
		s.Remember(name(1), []byte("x"))
		if s.view.temp != "" || recalled(s) != "" {
			t.Errorf("recalled %q, in %q", recalled(s), s.view.temp)
		}
		w, err := s.NewWriter()
		if err != nil {
			return err
		}
		_, err = w.Bytes(ctx, []byte("content"))
		return err
	})
}

// ask counts how often a recipe's chunks are asked for.
func ask(t *testing.T, s *Session, recipe chunk.ID, ids ...chunk.ID) (missing []chunk.ID, asked bool) {
	t.Helper()
	missing, err := s.Missing(t.Context(), recipe, func(context.Context) ([]chunk.ID, error) {
		asked = true
		return ids, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return missing, asked
}

func TestARecipeIsLookedThroughOnceAndAgainWhenAPackIsGone(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := t.TempDir()
	var first, second []chunk.ID
	store := func(to *[]chunk.ID, seed byte) func(ctx context.Context, s *Session) error {
		return func(ctx context.Context, s *Session) error {
			w, err := s.NewWriter()
			if err != nil {
				return err
			}
			for _, b := range pieces(seed, 20) {
				id, err := w.Bytes(ctx, b)
				if err != nil {
					return err
				}
				*to = append(*to, id)
			}
			id, err := w.Meta(ctx, []byte{seed})
			*to = append(*to, id)
			return err
		}
	}
	firstSID := commit(t, r, at(0, cache), store(&first, 1))
	commit(t, r, at(1, cache), store(&second, 2))
	both := slices.Concat(first, second)
	commit(t, r, at(2, cache), func(_ context.Context, s *Session) error {
		if missing, asked := ask(t, s, name(1), append(both, name(9))...); !asked || !slices.Equal(missing, []chunk.ID{name(9)}) {
			t.Errorf("%v, asked %v", missing, asked)
		}
		for _, want := range []bool{true, false} {
			if missing, asked := ask(t, s, name(2), both...); missing != nil || asked != want {
				t.Errorf("%v, asked %v, want %v", missing, asked, want)
			}
		}
		_, asked := ask(t, s, name(3), second...)
		s.Keep(name(4))
		if !asked {
			t.Error("a recipe is known that nobody asked for")
		}
		return nil
	})
	commit(t, r, at(3, cache), func(_ context.Context, s *Session) error {
		if missing, asked := ask(t, s, name(2), both...); missing != nil || asked {
			t.Errorf("the next session: %v, asked %v", missing, asked)
		}
		s.Keep(name(3))
		return nil
	})
	// Its packs are there still, but nothing vouches for them any more.
	if err := f.store.Delete(t.Context(), sessionsPrefix+firstSID); err != nil {
		t.Fatal(err)
	}
	commit(t, r, at(4, cache), func(_ context.Context, s *Session) error {
		if missing, asked := ask(t, s, name(2), both...); !asked || !slices.Equal(missing, first) {
			t.Errorf("without the first session: %d missing, asked %v", len(missing), asked)
		}
		if missing, asked := ask(t, s, name(3), second...); missing != nil || asked {
			t.Errorf("what stands in the second session: %v, asked %v", missing, asked)
		}
		return nil
	})
}

func TestMissingGivesTheErrorOfWhoReadsTheRecipe(t *testing.T) {
	f := newFixture(t)
	broken := errors.New("broken")
	commit(t, f.open(t, f.store), at(0, ""), func(ctx context.Context, s *Session) error {
		if _, err := s.Missing(ctx, name(1), func(context.Context) ([]chunk.ID, error) { return nil, broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
		return nil
	})
}

func TestWorkersShareTheNotesOfASession(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	cache := t.TempDir()
	value := func(n byte) []byte { return bytes.Repeat([]byte{n}, 1000*int(n)) }
	work := func(_ context.Context, s *Session) error {
		var wg sync.WaitGroup
		for worker := range byte(4) {
			wg.Go(func() {
				var buf []byte
				for n := byte(1); n < 60; n++ {
					if n%4 == worker {
						s.Remember(name(n), value(n))
					}
					if got := s.Recall(name(n), buf[:0]); got != nil {
						if buf = got; !bytes.Equal(got, value(n)) {
							t.Errorf("note %d differs", n)
						}
					}
				}
			})
		}
		wg.Wait()
		return nil
	}
	commit(t, r, at(0, cache), work)
	commit(t, r, at(1, cache), func(_ context.Context, s *Session) error {
		for n := byte(1); n < 60; n++ {
			if !bytes.Equal(s.Recall(name(n), nil), value(n)) {
				t.Errorf("note %d differs in the next session", n)
			}
		}
		return nil
	})
}
