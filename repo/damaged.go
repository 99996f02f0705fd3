package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/index"
	"github.com/pgtrove/pgtrove/storage"
)

// damagedPrefix is before the key of a pack in the request that says that the pack is damaged. No session's ID has a slash, so no request
// to forget a snapshot is called so.
const damagedPrefix = forgetPrefix + packsPrefix

// damagedPack is the pack that the request under key says to be damaged.
func damagedPack(key string) (string, bool) {
	if !strings.HasPrefix(key, damagedPrefix) {
		return "", false
	}
	return strings.TrimPrefix(key, forgetPrefix), true
}

// damagedPacks lists the packs that are said to be damaged.
func (r *Repo) damagedPacks(ctx context.Context) (map[string]bool, error) {
	var packs map[string]bool
	if err := r.store.List(ctx, damagedPrefix, func(i storage.Info) error {
		if key, ok := damagedPack(i.Key); ok {
			if packs == nil {
				packs = map[string]bool{}
			}
			packs[key] = true
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list %s: %w", damagedPrefix, err)
	}
	return packs, nil
}

// spentDamage are the requests about packs that are gone, and that the index does not name any more: as long as it does, the request says that they
// are not there.
func (p *pruner) spentDamage() (keys []string) {
	if p.parts == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(p.marks.damaged)) {
		if _, there := p.fresh[key]; !there && len(p.named(key)) == 0 {
			keys = append(keys, forgetPrefix+key)
		}
	}
	return keys
}

// ErrNotIndexed says that the index names no pack in which a chunk is. Every pack says itself what it holds: Rebuild finds it, if one has it.
var ErrNotIndexed = errors.New("in no pack that the index names")

// IndexError says that a part of the index is gone or damaged. What it said of packs is not known, though the packs may be there: Rebuild finds out.
type IndexError struct{ Objects []BadObject }

// BadObject is an object that is gone or damaged.
type BadObject struct {
	Key string
	Err error // ErrMissing or ErrDamaged; its text names the object
}

func (e *IndexError) Error() string {
	if len(e.Objects) == 1 {
		return fmt.Sprintf("a part of the index cannot be read: %v", e.Objects[0].Err)
	}
	return fmt.Sprintf("%d parts of the index cannot be read, the first because of this: %v", len(e.Objects), e.Objects[0].Err)
}

// Unwrap gives errors.Is and errors.As all of them.
func (e *IndexError) Unwrap() (all []error) {
	for _, b := range e.Objects {
		all = append(all, b.Err)
	}
	return all
}

// asUnreadable is what err says of the index segment under key, if it says that this is gone or damaged; else nil.
func asUnreadable(key string, err error) *BadObject {
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return &BadObject{key, fmt.Errorf("%w: %w", ErrMissing, err)}
	case errors.Is(err, ErrDamaged):
		return &BadObject{key, err}
	}
	return nil
}

// CheckIndex reads those index segments that count, and are chosen by their keys, from the storage, whatever a cache knows of them: an *IndexError says
// which are gone or damaged. A nil chosen chooses all.
func (r *Repo) CheckIndex(ctx context.Context, chosen func(key string) bool) error {
	for {
		l, err := r.list(ctx, forReading)
		if err != nil {
			return err
		}
		names := slices.DeleteFunc(l.segments, func(key string) bool { return chosen != nil && !chosen(key) })
		var bad []BadObject
		if err := r.oldSegments(ctx, names, func(_, _ string, _ *index.Segment, broken *BadObject) error {
			if broken != nil {
				bad = append(bad, *broken)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("check index: %w", err)
		}
		newest, err := r.newestNumber(ctx)
		switch {
		case err != nil:
			return err
		case newest != l.run.Number: // it was moved
		case bad != nil:
			return &IndexError{bad}
		default:
			return nil
		}
	}
}

// IndexDamage says what of the index cannot be read: an *IndexError, or nil. The view goes on without it.
func (v *View) IndexDamage() error { return v.unreadableIndex() }

// IndexDamage is that of the session's view. What it does not know the session stores again.
func (s *Session) IndexDamage() error { return s.view.unreadableIndex() }

func (v *View) unreadableIndex() error {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if len(v.broken) == 0 {
		return nil
	}
	return &IndexError{Objects: v.broken}
}
