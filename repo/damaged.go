package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

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
	if p.survey == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(p.marks.damaged)) {
		if _, there := p.fresh[key]; !there && p.survey.byKey[key] == nil {
			keys = append(keys, forgetPrefix+key)
		}
	}
	return keys
}

// IndexError says that a part of the index is gone or damaged. What it said of packs is not known, though the packs may be there: Rebuild finds out.
type IndexError struct{ Objects []error } // each names its object

func (e *IndexError) Error() string {
	if len(e.Objects) == 1 {
		return fmt.Sprintf("a part of the index cannot be read: %v", e.Objects[0])
	}
	return fmt.Sprintf("%d parts of the index cannot be read, the first because of this: %v", len(e.Objects), e.Objects[0])
}

// Unwrap gives errors.Is and errors.As all of them.
func (e *IndexError) Unwrap() []error { return e.Objects }

// asUnreadable is err if it says that an index segment is gone or damaged: ErrMissing or ErrDamaged. nil: it says something else, or nothing.
func asUnreadable(err error) error {
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrMissing, err)
	case errors.Is(err, ErrDamaged):
		return err
	}
	return nil
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
