package model

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgtrove/pgtrove/storage"
)

// turn does something about the call that was chosen: as a rule it happens and is answered.
func (w *world) turn(ctx context.Context, c *call) {
	switch {
	case c.by.dry && c.writes():
		w.oracle.violated("%s, which only shows what it would do, wants to %s %s", c.by.actor.name, c.verb, c.key)
	case c.verb == verbBegin:
		c.by.dry = false
		w.answer(c, reply{})
		return
	case c.applied:
		w.tell(ctx, c, "answered: "+c.result.text())
		w.answer(c, c.result)
		return
	case c.verb == verbDelete && w.isLocked(c.key):
		w.tell(ctx, c, "is refused")
		w.answer(c, reply{err: &storage.Error{Op: c.verb, Key: c.key, Class: storage.ErrDenied}})
		return
	case w.holdUp(ctx, c):
		return
	}
	roll, top := w.chance.pick(1000), 1000
	hit := func(perMille int) bool {
		top -= perMille
		return roll >= top
	}
	switch {
	case c.by == w.ghost:
		r, _ := w.disk.apply(ctx, c)
		w.tell(ctx, c, "takes effect late: "+r.text())
		w.answer(c, r)
	case hit(w.outage):
		w.goDown(ctx)
	case hit(w.crash):
		w.die(ctx, c.by)
	case hit(w.faults):
		w.fail(ctx, c)
	case hit(w.late) && c.writes():
		c.result, c.undo = w.disk.apply(ctx, c)
		c.applied = true
		w.tell(ctx, c, "takes effect, the answer comes later: "+c.result.text())
	default:
		r, _ := w.disk.apply(ctx, c)
		w.tell(ctx, c, r.text())
		w.settle(c, r)
		w.answer(c, r)
	}
}

// holdUp decides whether the call, or the process that waits for it, is held up for some steps.
func (w *world) holdUp(ctx context.Context, c *call) bool {
	chance := w.stall
	if slices.ContainsFunc(w.favourite, func(p point) bool { return c.is(p.verb, p.prefix) }) {
		chance = 500
	}
	if c.stalled || !w.chance.chance(chance) {
		return false
	}
	c.stalled = true
	c.until = w.step + 1<<(2+w.chance.pick(8))
	w.tell(ctx, c, fmt.Sprintf("is held up until step %d", c.until))
	return true
}

// isLocked decides, once for each object, whether the storage refuses to delete it.
func (w *world) isLocked(key string) bool {
	locked, known := w.locks[key]
	if !known {
		locked = w.chance.chance(w.locked)
		w.locks[key] = locked
	}
	return locked
}

func (w *world) fail(ctx context.Context, c *call) {
	if c.writes() && w.chance.pick(2) == 1 {
		r, _ := w.disk.apply(ctx, c)
		w.tell(ctx, c, "takes effect and the answer is lost: "+r.text())
	} else {
		w.tell(ctx, c, "fails")
	}
	w.answer(c, c.fail(errFault))
}

func (w *world) answer(c *call, r reply) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(c)
	c.answer <- r
}

// settle makes durable what an answer speaks of: an object that is said to exist already, or to be gone, stays so, whoever
// created or deleted it.
func (w *world) settle(c *call, r reply) {
	taken := c.verb == verbPut && errors.Is(r.err, storage.ErrExist)
	gone := c.verb == verbDelete && r.err == nil
	if !taken && !gone {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.pending {
		if other.verb == c.verb && other.key == c.key {
			other.undo = nil
		}
	}
}

// kill ends a process.
func (w *world) kill(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.dead.Store(true)
	for _, c := range slices.Clone(w.pending) {
		if c.by == p {
			w.remove(c)
			c.answer <- c.fail(errDead)
		}
	}
}

// die crashes a process. What it had asked of the storage may happen all the same, now or much later; but not the end of a pin much later,
// which would end another pin of the same name that was made since: no storage without conditional deletes can keep that.
func (w *world) die(ctx context.Context, p *process) {
	w.note(p.actor.name, "CRASHES")
	w.oracle.tally.Crashes++
	for _, c := range w.sorted() {
		if c.by != p || !c.writes() || c.applied {
			continue
		}
		switch w.chance.pick(3) {
		case 1:
			r, _ := w.disk.apply(ctx, c)
			w.tell(ctx, c, "takes effect: "+r.text())
		case 2:
			if !c.is(verbDelete, "pins/") {
				w.haunt(ctx, c)
			}
		}
	}
	w.kill(p)
	w.again(ctx, p.actor)
}

// sorted gives the calls that wait.
func (w *world) sorted() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.SortedFunc(slices.Values(w.pending), order)
}

// haunt leaves a call of a dead process under way.
func (w *world) haunt(ctx context.Context, c *call) {
	w.tell(ctx, c, "is still under way")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, &call{by: w.ghost, verb: c.verb, key: c.key, data: c.data, answer: make(chan reply, 1),
		until: w.step + 1<<w.chance.pick(9)})
}

// again has the actor begin his next job, if he has one, in a new process.
func (w *world) again(ctx context.Context, a *actor) {
	if a.jobs > 0 {
		w.start(ctx, a)
	}
}

// goDown crashes the machine on which everything runs: what took effect and was not answered may be undone.
func (w *world) goDown(ctx context.Context) {
	w.note("", "THE MACHINE GOES DOWN")
	w.oracle.tally.Outages++
	for _, c := range w.sorted() {
		if c.undo != nil && w.chance.pick(2) == 1 {
			c.undo()
			w.tell(ctx, c, "is undone")
		}
	}
	for _, p := range slices.Clone(w.processes) {
		if p != w.ghost && !p.dead.Load() {
			w.kill(p)
			w.again(ctx, p.actor)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = slices.DeleteFunc(w.pending, func(c *call) bool { return c.by == w.ghost })
}

// text says what a call gave.
func (r reply) text() string {
	var e *storage.Error
	switch {
	case r.err == nil && r.page != nil:
		s := ""
		for _, i := range r.page {
			s += " " + i.Key
		}
		if r.more {
			s += " ..."
		}
		return s
	case r.err == nil:
		return "done"
	case errors.As(r.err, &e) && e.Class != nil:
		return e.Class.Error()
	}
	return r.err.Error()
}
