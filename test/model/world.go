package model

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage/mem"
)

// maxSteps ends a schedule in which nobody gets anywhere.
const maxSteps = 4000

// world is one schedule while it runs, inside a bubble of testing/synctest: whoever is not waiting for the scheduler is waiting
// for somebody who is.
type world struct {
	*script
	plan
	image   *image
	servers servers
	chance  *tape // of the scheduler
	disk    *disk
	repo    *repo.Repo
	oracle  *oracle
	log     *log

	actors    []*actor
	processes []*process
	ghost     *process // of calls whose process is dead
	group     sync.WaitGroup
	last      *actor          // whose turn it was
	locks     map[string]bool // whether an object is locked, by key
	step      int
	inMind    string // the snapshot that the keeper thought of last

	mu      sync.Mutex
	pending []*call
}

// submit takes a call of a process in; false if the process is dead.
func (w *world) submit(c *call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.by.dead.Load() {
		return false
	}
	w.pending = append(w.pending, c)
	return true
}

// withdraw takes back a call whose context has ended.
func (w *world) withdraw(c *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(c)
}

// remove takes a call off the pending ones. mu is held.
func (w *world) remove(c *call) {
	if i := slices.Index(w.pending, c); i >= 0 {
		w.pending = slices.Delete(w.pending, i, i+1)
	}
}

func (w *world) note(who, what string) { w.log.add(w.step, who, what) }

// run plays the schedule to its end. It is called in a bubble.
func (w *world) run(ctx context.Context) {
	store := mem.New(time.Now)
	w.locks = map[string]bool{}
	w.servers.last = map[string]int{}
	w.oracle = newOracle(w.image, store)
	w.disk = &disk{Store: store, oracle: w.oracle, pages: w.pages}
	if err := w.image.copy(ctx, store); err != nil {
		w.oracle.violated("copy the new repository: %v", err)
	}
	var err error
	if w.repo, err = w.image.open(ctx, client{w}); err != nil {
		w.oracle.violated("open the new repository: %v", err)
		return
	}
	w.note("", fmt.Sprintf("%+v", w.plan))
	w.staff()
	for _, a := range w.actors {
		w.start(ctx, a)
	}
	for w.next(ctx) {
		c := w.choose()
		if c == nil {
			break
		}
		w.turn(ctx, c)
	}
	synctest.Wait()
	for _, p := range w.processes {
		w.kill(p)
	}
	w.group.Wait()
	if w.step < maxSteps && w.oracle.violation == "" {
		w.quiesce(ctx)
	}
}

// next begins a step once everybody waits for the scheduler; false where the schedule ends. Only until the turn that follows may the
// scheduler look at what the actors do too.
func (w *world) next(ctx context.Context) bool {
	synctest.Wait()
	w.oracle.check(ctx)
	if w.oracle.violation != "" || w.step == maxSteps {
		return false
	}
	w.step++
	w.pass()
	synctest.Wait() // timers may have fired
	return true
}

// pass lets time go by: always a little, sometimes much.
func (w *world) pass() {
	d := tick
	if w.chance.chance(w.jump) {
		d += oneOf(w.chance, jumps()...)
		w.note("", "time: "+d.String()+" go by")
	}
	time.Sleep(d)
}

// choose gives the call whose turn it is, nil if there is none. What is chosen does not depend on the order in which the calls came in.
func (w *world) choose() *call {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		return nil
	}
	ready := slices.DeleteFunc(slices.Clone(w.pending), func(c *call) bool { return c.until > w.step })
	if len(ready) == 0 {
		// Everybody is held up: the first to go on again is next.
		ready = []*call{slices.MinFunc(w.pending, func(a, b *call) int { return cmp.Or(cmp.Compare(a.until, b.until), order(a, b)) })}
	}
	slices.SortFunc(ready, order)
	mine := func(a *actor) []*call {
		return slices.DeleteFunc(slices.Clone(ready), func(c *call) bool { return c.by.actor != a })
	}
	others := w.chance.chance(w.switching)
	if calls := mine(w.last); len(calls) > 0 && !others {
		return calls[w.chance.pick(len(calls))]
	}
	var actors []*actor
	for _, a := range w.actors {
		if len(mine(a)) > 0 {
			actors = append(actors, a)
		}
	}
	w.last = oneOf(w.chance, actors...)
	calls := mine(w.last)
	return calls[w.chance.pick(len(calls))]
}

func order(a, b *call) int {
	return cmp.Or(cmp.Compare(a.by.actor.name, b.by.actor.name), cmp.Compare(a.verb, b.verb), cmp.Compare(a.key, b.key))
}
