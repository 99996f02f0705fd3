package model

import (
	"context"
	"errors"
	"strings"

	"github.com/pgtrove/pgtrove/storage"
)

// What the storage says when the model makes it fail.
var (
	errFault = errors.New("the model's fault")
	errDead  = errors.New("the process is dead")
)

// The verbs of a call: those of a Store, and one for a process that is about to begin its next job.
const (
	verbGet    = "get"
	verbPut    = "put"
	verbList   = "list"
	verbDelete = "delete"
	verbBegin  = "begin"
)

// call is a storage call that waits for its turn. A listing is as many calls as it has pages.
type call struct {
	by    *process
	verb  string
	key   string
	span  storage.Range
	data  []byte
	after string // the last key of the page before

	applied bool // it has had its effect, and the answer is on its way
	result  reply
	undo    func() // makes as if it had not been applied
	stalled bool   // it has been held up once
	until   int    // the step before which it is held up

	answer chan reply
}

// reply is what a call gives.
type reply struct {
	data []byte
	page []storage.Info
	more bool
	err  error
}

// writes says whether the call changes what is stored.
func (c *call) writes() bool { return c.verb == verbPut || c.verb == verbDelete }

// is says whether the call is of this verb, on a key with this prefix.
func (c *call) is(verb, prefix string) bool {
	return c.verb == verb && strings.HasPrefix(c.key, prefix)
}

func (c *call) fail(err error) reply {
	return reply{err: &storage.Error{Op: c.verb, Key: c.key, Class: storage.ErrUnreachable, Err: err}}
}

// client is the Store of all processes: every call waits until the scheduler lets it happen. Which process it is that calls stands in
// the context; a call without one, as when the repository is opened and after everybody has gone, happens at once.
type client struct{ w *world }

type processKey struct{}

func (s client) process(ctx context.Context) *process {
	p, _ := ctx.Value(processKey{}).(*process)
	return p
}

// do hands a call to the scheduler and waits for its answer, for the end of the process, or for that of ctx.
func (s client) do(ctx context.Context, c *call) reply {
	if err := ctx.Err(); err != nil {
		return reply{err: &storage.Error{Op: c.verb, Key: c.key, Err: err}}
	}
	if c.by = s.process(ctx); c.by == nil {
		r, _ := s.w.disk.apply(ctx, c)
		return r
	}
	c.answer = make(chan reply, 1)
	if !s.w.submit(c) {
		return c.fail(errDead)
	}
	select {
	case r := <-c.answer:
		return r
	case <-ctx.Done():
		s.w.withdraw(c)
		return reply{err: &storage.Error{Op: c.verb, Key: c.key, Err: ctx.Err()}}
	}
}

// Get implements storage.Store.
func (s client) Get(ctx context.Context, key string, r storage.Range, dst []byte) ([]byte, error) {
	a := s.do(ctx, &call{verb: verbGet, key: key, span: r})
	if a.err != nil {
		return nil, a.err
	}
	return append(dst, a.data...), nil
}

// Put implements storage.Store.
func (s client) Put(ctx context.Context, key string, data []byte) error {
	return s.do(ctx, &call{verb: verbPut, key: key, data: data}).err
}

// List implements storage.Store.
func (s client) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	for after := ""; ; {
		a := s.do(ctx, &call{verb: verbList, key: prefix, after: after})
		if a.err != nil {
			return a.err
		}
		for _, i := range a.page {
			if err := fn(i); err != nil {
				return err
			}
			after = i.Key
		}
		if !a.more {
			return nil
		}
	}
}

// Delete implements storage.Store.
func (s client) Delete(ctx context.Context, key string) error {
	return s.do(ctx, &call{verb: verbDelete, key: key}).err
}
