package model

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
)

// result is what came of a schedule.
type result struct {
	violation string
	trace     string
	choices   map[string][]int
	tally     tally
}

// planTape is the tape that the plan is drawn from.
const planTape = "plan"

// play runs the schedule of a script.
func play(t *testing.T, m *image, s *script, trace bool) (r result) {
	reader := rand.Reader
	rand.Reader = &source{seed: s.seed, streams: map[int]*mathrand.ChaCha8{}}
	defer func() { rand.Reader = reader }()
	synctest.Test(t, func(*testing.T) {
		w := &world{script: s, plan: newPlan(s.tape(planTape), s.around), image: m, chance: s.tape("scheduler"), log: newLog(trace)}
		w.run(context.Background())
		w.oracle.tally.Schedules, w.oracle.tally.Steps = 1, w.step
		r = result{violation: w.oracle.violation, choices: s.choices(), tally: w.oracle.tally}
		if trace {
			r.trace = w.log.String()
		}
	})
	return r
}

// staff makes the actors. Their names sort as they are made.
func (w *world) staff() {
	hire := func(name string, jobs int, job func(context.Context, *process) error) *actor {
		a := &actor{name: name, tape: w.tape(name), jobs: jobs, job: job}
		if t := w.tape("clocks"); t.chance(w.skew) {
			a.skew = oneOf(t, skews()...)
			w.note(name, "has a clock that is wrong by "+a.skew.String())
		}
		w.actors = append(w.actors, a)
		return a
	}
	for i := range w.writers {
		b := &writer{image: w.image, cluster: fmt.Sprintf("cluster%d", i%2), chunks: w.chunks}
		hire(fmt.Sprintf("writer%d", i), w.backups, b.backup)
	}
	for i := range w.pruners {
		hire(fmt.Sprintf("pruner%d", i), w.prunes, w.prune)
	}
	for i := range w.readers {
		hire(fmt.Sprintf("reader%d", i), 3, w.restore)
	}
	if w.keeper {
		hire("keeper", 6, w.keep)
	}
	w.ghost = &process{w: w, actor: hire("ghost", 0, nil)}
}

// source gives the random bytes that names and nonces are made of, the same in every replay: requests of one length do not change
// what those of another get, so that it does not matter which of a session's goroutines seals an object first.
type source struct {
	seed    uint64
	mu      sync.Mutex
	streams map[int]*mathrand.ChaCha8
}

var _ io.Reader = (*source)(nil)

// Read implements io.Reader.
func (s *source) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.streams[len(b)]
	if !ok {
		seed := [32]byte{0: byte(len(b)), 1: byte(len(b) >> 8)}
		for i := range 8 {
			seed[8+i] = byte(s.seed >> (8 * i))
		}
		r = mathrand.NewChaCha8(seed)
		s.streams[len(b)] = r
	}
	return r.Read(b)
}
