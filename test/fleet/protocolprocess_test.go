package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/retry"
)

var (
	errInjected = fmt.Errorf("%w: injected", storage.ErrUnreachable)
	errKilled   = errors.New("the process was killed")
)

// process is the Store of a program while it runs, over what a network does to it: calls fail before the storage has heard of them, answers are lost,
// and what was given up takes effect later. When it is killed it calls nothing more; what was under way may still arrive.
type process struct {
	below storage.Store
	end   context.CancelFunc
	late  *sync.WaitGroup // of what takes effect later

	mu    sync.Mutex
	rand  *rand.Rand
	rough int // faults in a thousand calls, of each kind
	left  int // calls until it is killed; negative: it is not
	dead  bool
	hold  func(verb fault.Verb, key string) // waits before a call; may be nil
	tally *protocolTally
}

// start begins a process on a host, whose context ends when it is killed. The Store is what package repo gets: half of the processes try again what
// fails, as the program does.
func (w *protocolWorld) start(ctx context.Context, host storage.Store, r *rand.Rand, killAfter int) (context.Context, *process, storage.Store) {
	ctx, end := context.WithCancel(ctx)
	p := &process{end: end, late: &w.late, rand: rand.New(rand.NewPCG(r.Uint64(), r.Uint64())), rough: 8, left: killAfter, tally: &w.tally}
	p.below = fault.New(host, p.decide)
	if r.IntN(2) == 0 {
		return ctx, p, p
	}
	return ctx, p, retry.New(p, retry.Options{Total: 300 * time.Millisecond, First: 5 * time.Millisecond, Longest: 40 * time.Millisecond, Once: repo.OncePut})
}

// decide is what becomes of a call that is made now.
func (p *process) decide(fault.Op) (a fault.Action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch n := p.rand.IntN(1000); {
	case n < p.rough:
		p.tally.add(&p.tally.Failed)
		a.Before = errInjected
	case n < 2*p.rough:
		p.tally.add(&p.tally.Lost)
		a.After, a.Cut = errInjected, p.rand.IntN(4)
	case n < 4*p.rough:
		a.Delay = time.Duration(p.rand.IntN(60)) * time.Millisecond
	}
	return a
}

// fate of a call that changes something.
type fate int

const (
	made    fate = iota
	refused      // the process is dead
	belated      // it is given up, and takes effect later
)

// next is asked before each call.
func (p *process) next(verb fault.Verb, key string) (f fate, delay time.Duration) {
	if p.hold != nil {
		p.hold(verb, key)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return refused, 0
	}
	delay = time.Duration(p.rand.IntN(400)) * time.Millisecond
	writes := verb == fault.Put || verb == fault.Delete
	if p.left == 0 {
		p.dead = true
		p.tally.add(&p.tally.Killed)
		p.end()
		if writes && p.rand.IntN(2) == 0 {
			return belated, delay
		}
		return refused, 0
	}
	p.left--
	if writes && p.rand.IntN(1000) < 4*p.rough {
		return belated, delay
	}
	return made, 0
}

// isDead says whether the process was killed.
func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func (p *process) refuse(verb fault.Verb, key string, err error) error {
	return &storage.Error{Op: string(verb), Key: key, Class: storage.ErrUnreachable, Err: err}
}

// later lets a call take effect after a while, whatever became of who made it.
func (p *process) later(ctx context.Context, delay time.Duration, call func(ctx context.Context) error) {
	p.tally.add(&p.tally.Late)
	ctx = context.WithoutCancel(ctx)
	p.late.Go(func() {
		time.Sleep(delay)
		_ = call(ctx) // nobody is there to be told
	})
}

// Get implements storage.Store.
func (p *process) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	if f, _ := p.next(fault.Get, key); f == refused {
		return nil, p.refuse(fault.Get, key, errKilled)
	}
	return p.below.Get(ctx, key, r, dst)
}

// List implements storage.Store.
func (p *process) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if f, _ := p.next(fault.List, prefix); f == refused {
		return p.refuse(fault.List, prefix, errKilled)
	}
	return p.below.List(ctx, prefix, fn)
}

// Put implements storage.Store.
func (p *process) Put(ctx context.Context, key string, data []byte) error {
	switch f, delay := p.next(fault.Put, key); f {
	case refused:
		return p.refuse(fault.Put, key, errKilled)
	case belated:
		data := bytes.Clone(data)
		p.later(ctx, delay, func(ctx context.Context) error { return p.below.Put(ctx, key, data) })
		return p.refuse(fault.Put, key, errInjected)
	}
	return p.below.Put(ctx, key, data)
}

// Delete implements storage.Store.
func (p *process) Delete(ctx context.Context, key string) error {
	switch f, delay := p.next(fault.Delete, key); f {
	case refused:
		return p.refuse(fault.Delete, key, errKilled)
	case belated:
		p.later(ctx, delay, func(ctx context.Context) error { return p.below.Delete(ctx, key) })
		return p.refuse(fault.Delete, key, errInjected)
	}
	return p.below.Delete(ctx, key)
}

// protocolTally counts what happened: a run in which nobody gets anything done proves nothing.
type protocolTally struct {
	mu                                   sync.Mutex
	Failed, Lost, Late, Killed           int // calls; processes
	Committed, Fenced, Pushed, GaveUp    int
	Pruned, Blocked, Overtaken, Restored int
	Swept, Condemned, Repacked, Rescued  int // packs
}

// add counts one more of n, a field.
func (t *protocolTally) add(n *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*n++
}

func (t *protocolTally) get(n *int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return *n
}

// report adds what a prune says that it did.
func (t *protocolTally) report(r *repo.PruneReport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Pruned++
	t.Swept += r.Swept.Packs
	t.Condemned += r.Condemned.Packs
	t.Repacked += r.Repacked.Packs
	t.Rescued += r.Rescued.Packs
}

func (t *protocolTally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("calls: %d failed, %d answers lost, %d late; %d processes killed; backups: %d committed, %d fenced, %d WAL files; %d operations given up; "+
		"prunes: %d, %d blocked, %d overtaken; packs: %d condemned (%d repacked), %d swept, %d rescued; %d restores",
		t.Failed, t.Lost, t.Late, t.Killed, t.Committed, t.Fenced, t.Pushed, t.GaveUp, t.Pruned, t.Blocked, t.Overtaken, t.Condemned, t.Repacked, t.Swept, t.Rescued, t.Restored)
}
