package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// SelfTestPrefix is where SelfTest writes.
const SelfTestPrefix = "selftest/"

// Problem is something that a storage does and must not: one of the constants below. Its text is for people.
type Problem string

// What SelfTest can find.
const (
	// ProblemOverwrite: two writers of one key would both believe that the object is theirs, and one of them is wrong.
	ProblemOverwrite Problem = "a second put of a key is not refused"
	ProblemReplaced  Problem = "a put that is refused changes the object"
	ProblemWinners   Problem = "several of the puts that race for a key are told that they created it"
	ProblemNoWinner  Problem = "of the puts that race for a key none is told that it created it"
	ProblemWrongOne  Problem = "the object is not that of the put that was told that it created it"
	ProblemStale     Problem = "a new object is not found at once, or with another content"
	ProblemParts     Problem = "parts of an object are read wrongly"
	ProblemUnlisted  Problem = "a listing does not show at once what is there"
	ProblemUndead    Problem = "an object that was deleted is still there"
)

// Verdict is what SelfTest found.
type Verdict struct {
	Problems []Problem // in the order of the constants, each once
	// Keeps: the storage refuses to delete, as it should where the caller is a database host.
	Keeps bool
	Left  []string // keys that could not be removed, or of which that is not known
}

// CreateOnly says whether of several callers who put one key exactly one is told that it did, whatever else is wrong.
func (v Verdict) CreateOnly() bool {
	return !slices.ContainsFunc(v.Problems, func(p Problem) bool {
		switch p {
		case ProblemOverwrite, ProblemReplaced, ProblemWinners, ProblemNoWinner, ProblemWrongOne:
			return true
		}
		return false
	})
}

// How SelfTest races.
const (
	selfTestRacers = 16
	selfTestRounds = 3
	selfTestSize   = 64 << 10 // bytes
	salvageTime    = 15 * time.Second
)

// SelfTest finds out whether a storage keeps the promises of Store that no driver can give in its place: above all, that it creates an object only once.
// It costs some sixty small requests. It writes under SelfTestPrefix, keys that no other call of it uses, and removes them if it may.
//
// s is a driver, or a decorator that repeats calls. The error is that of a call which kept it from a verdict; Keeps and Left are then filled in all the same.
// What fails after the storage was found not to create only once changes nothing: servers that ignore the condition often fail in the race as well.
func SelfTest(ctx context.Context, s Store) (Verdict, error) {
	t := &selfTest{store: s, prefix: SelfTestPrefix + rand.Text() + "/", sizes: map[string]int64{}}
	err := t.run(ctx)
	if err != nil {
		t.salvage(ctx)
	} else {
		err = t.clean(ctx)
	}
	if err != nil && t.verdict.CreateOnly() {
		return Verdict{Keeps: t.verdict.Keeps, Left: t.verdict.Left}, fmt.Errorf("self-test of the storage: %w", err)
	}
	slices.SortFunc(t.verdict.Problems, func(a, b Problem) int { return slices.Index(problems(), a) - slices.Index(problems(), b) })
	return t.verdict, nil
}

func problems() []Problem {
	return []Problem{ProblemOverwrite, ProblemReplaced, ProblemWinners, ProblemNoWinner, ProblemWrongOne, ProblemStale, ProblemParts,
		ProblemUnlisted, ProblemUndead}
}

type selfTest struct {
	store   Store
	prefix  string
	sizes   map[string]int64 // of what was put
	verdict Verdict
}

func (t *selfTest) found(p Problem) {
	if !slices.Contains(t.verdict.Problems, p) {
		t.verdict.Problems = append(t.verdict.Problems, p)
	}
}

func (t *selfTest) run(ctx context.Context) error {
	if err := t.twice(ctx); err != nil {
		return err
	}
	for round := range selfTestRounds {
		if err := t.race(ctx, fmt.Sprintf("%srace-%d", t.prefix, round)); err != nil {
			return err
		}
	}
	return t.list(ctx)
}

// twice puts two contents under one key.
func (t *selfTest) twice(ctx context.Context) error {
	key := t.prefix + "twice"
	first, second := content('1'), content('2')
	t.sizes[key] = selfTestSize
	if err := t.store.Put(ctx, key, first); err != nil {
		return err
	}
	if err := t.want(ctx, key, first, ProblemStale); err != nil {
		return err
	}
	changed := ProblemReplaced
	switch err := t.store.Put(ctx, key, second); {
	case err == nil:
		t.found(ProblemOverwrite)
		changed = ProblemOverwrite
	case !errors.Is(err, ErrExist):
		return err
	}
	if err := t.want(ctx, key, first, changed); err != nil {
		return err
	}
	for _, r := range []Range{{Off: 1000, Len: 10}, {Off: -10}, {Off: selfTestSize - 5, Len: 10}, {Off: selfTestSize}} {
		off, n := r.Resolve(selfTestSize)
		got, err := t.store.Get(ctx, key, r, nil)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, first[off:off+n]) && !bytes.Equal(got, second[off:off+n]) {
			t.found(ProblemParts)
		}
	}
	return nil
}

// want says p if the object is not there or is another.
func (t *selfTest) want(ctx context.Context, key string, data []byte, p Problem) error {
	got, err := t.store.Get(ctx, key, Range{}, nil)
	if err != nil && !errors.Is(err, ErrNotExist) {
		return err
	}
	if err != nil || !bytes.Equal(got, data) {
		t.found(p)
	}
	return nil
}

func (t *selfTest) race(ctx context.Context, key string) error {
	t.sizes[key] = selfTestSize
	errs := make([]error, selfTestRacers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		data := content(byte('a' + i))
		wg.Go(func() {
			<-start
			errs[i] = t.store.Put(ctx, key, data)
		})
	}
	close(start)
	wg.Wait()
	winner, winners := 0, 0
	for i, err := range errs {
		switch {
		case err == nil:
			winner = i
			winners++
		case !errors.Is(err, ErrExist):
			return err
		}
	}
	switch winners {
	case 0:
		t.found(ProblemNoWinner)
		return nil
	case 1:
		return t.want(ctx, key, content(byte('a'+winner)), ProblemWrongOne)
	}
	t.found(ProblemWinners)
	return nil
}

func (t *selfTest) list(ctx context.Context) error {
	seen := map[string]int64{}
	err := t.store.List(ctx, t.prefix, func(i Info) error {
		seen[i.Key] = i.Size
		return nil
	})
	if err != nil {
		return err
	}
	for key, size := range t.sizes {
		if got, ok := seen[key]; !ok || got != size {
			t.found(ProblemUnlisted)
		}
	}
	return nil
}

// salvage cleans up after a failure, also when the caller has given up, but for no long time.
func (t *selfTest) salvage(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), salvageTime)
	defer cancel()
	_ = t.clean(ctx) // the first error says more
}

// clean deletes what may have been put. Where one call finds nobody, no other is made.
func (t *selfTest) clean(ctx context.Context) (err error) {
	for _, key := range slices.Sorted(maps.Keys(t.sizes)) {
		if err != nil {
			t.verdict.Left = append(t.verdict.Left, key)
			continue
		}
		err = t.remove(ctx, key)
	}
	return err
}

func (t *selfTest) remove(ctx context.Context, key string) error {
	err := t.store.Delete(ctx, key)
	if errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
		t.verdict.Left = append(t.verdict.Left, key)
		return err
	}
	switch _, there := t.store.Get(ctx, key, Range{Len: 1}, nil); {
	case err == nil && there == nil:
		t.found(ProblemUndead)
	case err == nil && !errors.Is(there, ErrNotExist):
		return there
	case err != nil:
		t.verdict.Keeps = true
		if !errors.Is(there, ErrNotExist) { // what was never put is not left
			t.verdict.Left = append(t.verdict.Left, key)
		}
	}
	return nil
}

// content differs from others of its kind in every byte.
func content(kind byte) []byte { return bytes.Repeat([]byte{kind}, selfTestSize) }
