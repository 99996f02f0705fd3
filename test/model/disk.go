package model

import (
	"context"
	"errors"
	"sync"

	"github.com/pgtrove/pgtrove/storage"
)

// disk is the storage below the schedule, where calls have their effect at once, one at a time. It tells the oracle what changed.
type disk struct {
	storage.Store
	oracle *oracle
	pages  int // keys in a page of a listing; 0: all

	mu sync.Mutex // held by a call while it happens: those of a prune that runs alone come from several goroutines
}

var errPageFull = errors.New("the page is full")

// apply lets a call happen and gives its answer, and how it is undone where it can be.
func (d *disk) apply(ctx context.Context, c *call) (r reply, undo func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch c.verb {
	case verbGet:
		r.data, r.err = d.Get(ctx, c.key, c.span, nil)
	case verbList:
		r = d.page(ctx, c)
	case verbPut:
		if r.err = d.Put(ctx, c.key, c.data); r.err == nil {
			undo = func() { _ = d.Delete(ctx, c.key) }
		}
	case verbDelete:
		old, err := d.Get(ctx, c.key, storage.Range{}, nil)
		r.err = d.Delete(ctx, c.key)
		if err == nil {
			undo = func() { _ = d.Put(ctx, c.key, old) }
		}
	}
	return r, undo
}

// page gives the next keys of a listing, as they are now.
func (d *disk) page(ctx context.Context, c *call) (r reply) {
	r.err = d.List(ctx, c.key, func(i storage.Info) error {
		if i.Key <= c.after {
			return nil
		}
		if d.pages > 0 && len(r.page) == d.pages {
			r.more = true
			return errPageFull
		}
		r.page = append(r.page, i)
		return nil
	})
	if r.more {
		r.err = nil
	}
	return r
}

// Put implements storage.Store.
func (d *disk) Put(ctx context.Context, key string, data []byte) error {
	err := d.Store.Put(ctx, key, data)
	if err == nil {
		d.oracle.changed(key, true)
	}
	return err
}

// Delete implements storage.Store.
func (d *disk) Delete(ctx context.Context, key string) error {
	err := d.Store.Delete(ctx, key)
	d.oracle.changed(key, false)
	return err
}
