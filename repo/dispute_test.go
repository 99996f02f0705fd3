package repo

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

// A name that competes with others is taken when the Put comes, and is not to be read afterwards. prune says which of the two such names is meant.
func disputed(t *testing.T, prune bool, get error) error {
	t.Helper()
	f := newFixture(t)
	prefix := map[bool]string{true: gcPrefix, false: snapshotsPrefix}[prune]
	put := false
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if !strings.HasPrefix(op.Key, prefix) {
			return fault.Action{}
		}
		switch {
		case op.Verb == fault.Put:
			put = true
			return fault.Action{Before: storage.ErrExist}
		case op.Verb == fault.Get && put:
			return fault.Action{Before: get}
		}
		return fault.Action{}
	})
	if prune {
		_, err := f.open(t, s).Prune(t.Context(), pruning())
		return err
	}
	_, _, err := write(t.Context(), f.open(t, s), pieces(1, 2))
	return err
}

func TestWhoLosesANameThatIsDeletedAtOnceKnowsThatItLost(t *testing.T) {
	if err := disputed(t, false, storage.ErrNotExist); !errors.Is(err, ErrFenced) {
		t.Errorf("a commit, where a fence was deleted with its session: %v", err)
	}
	if err := disputed(t, true, storage.ErrNotExist); !errors.Is(err, ErrOvertaken) {
		t.Errorf("a prune, where the next one deleted the run that was faster: %v", err)
	}
}

func TestANameThatIsTakenByNobodyKnowsWhomIsAnOutage(t *testing.T) {
	down := fmt.Errorf("%w: no answer", storage.ErrUnreachable)
	for _, prune := range []bool{false, true} {
		if err := disputed(t, prune, down); !errors.Is(err, storage.ErrUnreachable) {
			t.Errorf("prune %v: %v", prune, err)
		}
	}
}
