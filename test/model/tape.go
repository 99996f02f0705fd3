package model

import (
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
)

// script is everything that a schedule leaves to chance: a tape of choices for each who chooses. The same script gives the same
// schedule.
type script struct {
	seed  uint64
	wild  bool             // choices that are not on the tapes come from the seed; otherwise they are tame
	old   map[string][]int // choices to repeat
	tapes map[string]*tape

	around []point // where delays are looked for; nil: where chance will have it
}

// newScript gives the script of a seed.
func newScript(seed uint64, around ...point) *script {
	return &script{seed: seed, wild: true, tapes: map[string]*tape{}, around: around}
}

// repeat gives a script that makes these choices, and tame ones after them.
func repeat(seed uint64, choices map[string][]int, around ...point) *script {
	return &script{seed: seed, old: choices, tapes: map[string]*tape{}, around: around}
}

// tape gives the tape of whoever is called so. Everyone has a tape of his own, so that a choice less of one does not change
// what the others do.
func (s *script) tape(name string) *tape {
	t, ok := s.tapes[name]
	if !ok {
		t = &tape{old: s.old[name]}
		if s.wild {
			h := fnv.New64a()
			_, _ = h.Write([]byte(name))
			t.rng = rand.New(rand.NewPCG(s.seed, h.Sum64()))
		}
		s.tapes[name] = t
	}
	return t
}

// choices gives what was chosen, by tape.
func (s *script) choices() map[string][]int {
	out := map[string][]int{}
	for _, name := range slices.Sorted(maps.Keys(s.tapes)) {
		out[name] = s.tapes[name].made
	}
	return out
}

// tape is a row of choices. 0 is the tame one of each: no fault, nobody else's turn, less of everything.
type tape struct {
	rng  *rand.Rand // nil: what is not in old is tame
	old  []int
	made []int
}

// pick chooses a number from 0 to n-1.
func (t *tape) pick(n int) int {
	v := 0
	switch at := len(t.made); {
	case at < len(t.old):
		v = min(t.old[at], n-1)
	case t.rng != nil:
		v = t.rng.IntN(n)
	}
	t.made = append(t.made, v)
	return v
}

// chance is true perMille times in a thousand.
func (t *tape) chance(perMille int) bool { return t.pick(1000) >= 1000-perMille }

// oneOf chooses one of the items, of which the first is the tame one.
func oneOf[T any](t *tape, items ...T) T { return items[t.pick(len(items))] }
