package model

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// actor is somebody with jobs to do, each in the process that he has then. When it dies he starts another.
type actor struct {
	name string
	tape *tape
	skew time.Duration // of his clock
	jobs int           // to begin yet
	job  func(ctx context.Context, p *process) error
}

// process is the program while it runs: its calls go to the scheduler. What it was about to do when it dies never happens.
type process struct {
	w     *world
	actor *actor
	dead  atomic.Bool
	dry   bool // it does nothing that changes anything
}

// pick makes a choice of the actor. A dead process chooses nothing.
func (p *process) pick(n int) int {
	if p.dead.Load() {
		return 0
	}
	return p.actor.tape.pick(n)
}

// now is the time by the actor's clock.
func (p *process) now() time.Time { return time.Now().Add(p.actor.skew) }

func (p *process) chance(perMille int) bool { return p.pick(1000) >= 1000-perMille }

// start runs an actor's jobs in a new process.
func (w *world) start(ctx context.Context, a *actor) {
	p := &process{w: w, actor: a}
	w.processes = append(w.processes, p)
	w.group.Go(func() {
		defer func() {
			if x := recover(); x != nil {
				w.oracle.violated("panic in %s: %v\n%s", a.name, x, debug.Stack())
			}
			p.dead.Store(true)
		}()
		ctx := context.WithValue(ctx, processKey{}, p)
		for a.jobs > 0 {
			if r := (client{w}).do(ctx, &call{verb: verbBegin}); r.err != nil {
				return
			}
			a.jobs--
			if err := a.job(ctx, p); err != nil && !p.dead.Load() {
				w.note(a.name, fmt.Sprintf("gives up: %v", err))
			}
		}
	})
}
