package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// TakenBack says what of some requests could not be taken back, by the IDs of snapshots.
type TakenBack struct {
	Removed  []string // a prune has removed them
	Left     []string // they are forgotten all the same: somebody else wants them gone, with ForgetLast, or the storage failed
	Narrowed []string // a prune has seen to it that they stay narrow, or likewise
}

// TakeBack takes back what Forget and what Narrow asked for, as far as no prune has come first, and then looks what became of it. What somebody else had
// asked for goes with it, but for ForgetLast. It goes on where the storage fails for one request: with such an error, too, the answer holds, unless the error is of
// the look itself; then all is in it that might be. A prune that is under way may have read the requests already, and go by them afterwards.
func (r *Repo) TakeBack(ctx context.Context, forgotten, narrowed []string) (t TakenBack, err error) {
	for _, id := range forgotten {
		err = errors.Join(err, r.Unforget(ctx, id))
	}
	for _, id := range narrowed {
		err = errors.Join(err, r.store.Delete(ctx, forgetPrefix+id+narrowSuffix))
	}
	now := map[string]Commit{}
	if lookErr := r.AllCommits(ctx, "", func(c Commit) error { now[c.ID] = c; return nil }); lookErr != nil {
		return TakenBack{Left: forgotten, Narrowed: narrowed}, errors.Join(err, lookErr)
	}
	for _, id := range forgotten {
		c, there := now[id]
		switch {
		case !there:
			t.Removed = append(t.Removed, id)
		case c.Last: // alone it would speak of a request to come
			err = errors.Join(err, r.request(ctx, forgetPrefix+id))
			t.Left = append(t.Left, id)
		case c.Forgotten:
			t.Left = append(t.Left, id)
		}
	}
	for _, id := range narrowed {
		if now[id].Narrowed {
			t.Narrowed = append(t.Narrowed, id)
		}
	}
	return t, err
}

// StoredAt is the time that the storage has for an object, or for the newest of those whose keys begin with it; the zero time if there is none.
func (r *Repo) StoredAt(ctx context.Context, key string) (at time.Time, err error) {
	if err = r.store.List(ctx, key, func(i storage.Info) error {
		if i.ModTime.After(at) {
			at = i.ModTime
		}
		return nil
	}); err != nil {
		return at, fmt.Errorf("list %s: %w", key, err)
	}
	return at, nil
}
