package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// A person's requests are objects of their own, named by the snapshot: forget/<sid>, forget/<sid>.last, forget/<sid>.wal and pins/<sid>. Writers'
// credentials cannot create them.
const (
	forgetPrefix = "forget/"
	pinsPrefix   = "pins/"
	// narrowSuffix marks a request that is about the WAL behind a snapshot, and not about the snapshot. No session's ID ends so.
	narrowSuffix = ".wal"
	// lastSuffix marks a request that says that the snapshot may go although it is the last of its cluster. Likewise.
	lastSuffix = ".last"
)

var (
	// ErrPinned says that a snapshot is pinned, so that nothing removes it.
	ErrPinned = errors.New("snapshot is pinned")
	// ErrNotCounted says that a snapshot does not exist, or not any more.
	ErrNotCounted = errors.New("no such snapshot, or a prune has removed it")
)

// mark is the payload of a request.
type mark struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
	Host    string    `json:"host"`
}

// marks are the requests by the snapshot's ID.
type marks struct {
	forgotten, pinned, narrowed map[string]bool
	last                        map[string]bool // may go though their clusters have nothing else
	damaged                     map[string]bool // packs, by key: see damagedPrefix
}

// hidden says whether a person asked to forget the snapshot. A pin wins.
func (m *marks) hidden(sid string) bool { return m.forgotten[sid] && !m.pinned[sid] }

func (r *Repo) marks(ctx context.Context) (*marks, error) {
	m := &marks{forgotten: map[string]bool{}, pinned: map[string]bool{}, narrowed: map[string]bool{},
		last: map[string]bool{}, damaged: map[string]bool{}}
	if err := r.store.List(ctx, forgetPrefix, func(i storage.Info) error {
		name := strings.TrimPrefix(i.Key, forgetPrefix)
		if key, ok := damagedPack(i.Key); ok {
			m.damaged[key] = true
		} else if sid, ok := strings.CutSuffix(name, narrowSuffix); ok {
			m.narrowed[sid] = true
		} else if sid, ok := strings.CutSuffix(name, lastSuffix); ok {
			m.last[sid] = true
		} else {
			m.forgotten[name] = true
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list %s: %w", forgetPrefix, err)
	}
	if err := r.store.List(ctx, pinsPrefix, func(i storage.Info) error { // last: a pin that came meanwhile counts
		m.pinned[strings.TrimPrefix(i.Key, pinsPrefix)] = true
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list %s: %w", pinsPrefix, err)
	}
	return m, nil
}

// Forget hides a snapshot, given by its full ID, from now on; the next prune removes it, unless its cluster would have none left then. Until that, Pin
// brings it back. It may be one that is gone already: then it tells the prune that this is known. ErrPinned; ErrNotCounted for what no session is called.
func (r *Repo) Forget(ctx context.Context, id string) error {
	if strings.HasSuffix(id, narrowSuffix) || strings.HasSuffix(id, lastSuffix) { // it would be another snapshot's request
		return fmt.Errorf("forget %s: %w", id, ErrNotCounted)
	}
	m, err := r.marks(ctx)
	if err != nil {
		return err
	}
	if m.pinned[id] {
		return fmt.Errorf("forget %s: %w", id, ErrPinned)
	}
	return r.request(ctx, forgetPrefix+id)
}

// ForgetLast is Forget for a snapshot that goes even if it is the last of its cluster.
func (r *Repo) ForgetLast(ctx context.Context, id string) error {
	if err := r.Forget(ctx, id); err != nil { // first: the other alone would say something of a request to come
		return err
	}
	return r.request(ctx, forgetPrefix+id+lastSuffix)
}

// Unforget takes back what Forget asked for. It comes too late for what a prune has removed, and what somebody else had asked for goes with it.
func (r *Repo) Unforget(ctx context.Context, id string) error {
	return r.store.Delete(ctx, forgetPrefix+id)
}

// Narrow says that of the archived WAL a snapshot, given by its full ID, needs only what brings it to its own moment, from its start to its
// stop. Nothing takes that back once a run has seen it; until then TakeBack does. It may be pinned, be gone already, or have been narrowed before.
func (r *Repo) Narrow(ctx context.Context, id string) error {
	return r.request(ctx, forgetPrefix+id+narrowSuffix)
}

// Pin keeps a snapshot, given by its full ID, whatever policy or request there is. It returns nil only if no prune can
// remove the snapshot any more: a run under way that has not seen the pin may end it, but deletes nothing of it, and readers and the
// next run go by the pin. ErrNotCounted.
func (r *Repo) Pin(ctx context.Context, id string) error {
	if err := r.mustCount(ctx, id); err != nil {
		return fmt.Errorf("pin %s: %w", id, err)
	}
	if err := r.request(ctx, pinsPrefix+id); err != nil {
		return err
	}
	// Only now: a run that began before may have removed it for good in between.
	if err := r.mustCount(ctx, id); err != nil {
		return fmt.Errorf("pin %s: %w", id, err)
	}
	return nil
}

// PinExpired pins a snapshot, given by its full ID, that the newest prune run has ended and that is still there: readers show it at once, and the next run
// that begins lists it as valid again. A run under way that has not seen the pin may remove it for good all the same, so of nil less can be said than of Pin's.
// ErrNotCounted: the newest run has not ended such a snapshot.
func (r *Repo) PinExpired(ctx context.Context, id string) error {
	ended := func(run *gcRun, key string, _ map[string]bool) bool { return run.expired[key] }
	if err := r.mustBe(ctx, id, ended); err != nil {
		return fmt.Errorf("pin %s: %w", id, err)
	}
	if err := r.request(ctx, pinsPrefix+id); err != nil {
		return err
	}
	// A run that was under way has removed it, or one that began since lists it as valid.
	back := func(run *gcRun, key string, sessions map[string]bool) bool {
		return run.expired[key] || run.counts(key, sessions)
	}
	if err := r.mustBe(ctx, id, back); err != nil {
		return fmt.Errorf("pin %s: %w", id, err)
	}
	return nil
}

// Unpin takes a pin back. ErrNotCounted: the snapshot has none.
func (r *Repo) Unpin(ctx context.Context, id string) error {
	m, err := r.marks(ctx)
	if err != nil {
		return err
	}
	if !m.pinned[id] {
		return fmt.Errorf("unpin %s: %w", id, ErrNotCounted)
	}
	return r.store.Delete(ctx, pinsPrefix+id)
}

// request creates a mark. One that is there already is as good.
func (r *Repo) request(ctx context.Context, key string) error {
	host, _ := os.Hostname() // for people
	text, err := json.Marshal(mark{Version: 1, Time: time.Now().UTC(), Host: host})
	if err != nil {
		return err
	}
	if err := r.store.Put(ctx, key, r.seal(kindMark, key, text)); err != nil && !errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// mustCount says whether the newest prune run lets a snapshot count, whatever was asked for: ErrNotCounted if not.
func (r *Repo) mustCount(ctx context.Context, id string) error {
	return r.mustBe(ctx, id, (*gcRun).counts)
}

// mustBe says whether there is a snapshot that the newest prune run holds for what is asked: ErrNotCounted if not.
func (r *Repo) mustBe(ctx context.Context, id string, what func(run *gcRun, key string, sessions map[string]bool) bool) error {
	for {
		outcomes, err := r.outcomes(ctx)
		if err != nil {
			return err
		}
		sessions, err := r.sessions(ctx)
		if err != nil {
			return err
		}
		run, err := r.newestRun(ctx)
		if err != nil {
			return err
		}
		there, err := r.isSnapshot(ctx, outcomes[id], func(key string) bool { return what(run, key, sessions) })
		if err != nil {
			return err
		}
		again, err := r.newestNumber(ctx)
		switch {
		case err != nil:
			return err
		case again != run.Number: // look again
		case !there:
			return ErrNotCounted
		default:
			return nil
		}
	}
}

// isSnapshot says whether one of the outcomes under keys, of those that count, is a snapshot, or may be one because it is damaged.
func (r *Repo) isSnapshot(ctx context.Context, keys []string, counts func(key string) bool) (bool, error) {
	for _, key := range keys {
		if !counts(key) {
			continue
		}
		o, err := r.outcome(ctx, key)
		switch {
		case errors.Is(err, ErrDamaged), err == nil && o.Outcome == outcomeSnapshot:
			return true, nil
		case err != nil && !isForeign(err) && !errors.Is(err, storage.ErrNotExist):
			return false, err
		}
	}
	return false, nil
}
