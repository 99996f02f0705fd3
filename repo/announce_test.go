package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
	"github.com/pgtrove/pgtrove/storage/retry"
)

// announcing opens a session on a store whose announcements fail as the actions say, in turn, below the retries that cmd makes. It gives the keys of all
// announcements that were sent.
func announcing(t *testing.T, f fixture, actions ...fault.Action) (keys []string, gcListings int, err error) {
	t.Helper()
	failing := fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.List && op.Key == gcPrefix {
			gcListings++
		}
		if op.Verb != fault.Put || !strings.HasPrefix(op.Key, sessionsPrefix) {
			return fault.Action{}
		}
		keys = append(keys, op.Key)
		if n := len(keys); n <= len(actions) {
			return actions[n-1]
		}
		return fault.Action{}
	})
	r := f.open(t, retry.New(failing, retry.Options{Once: OncePut}))
	s, err := r.announce(t.Context(), options(), false)
	if err == nil && sessionsPrefix+s.sid != keys[len(keys)-1] {
		t.Errorf("session %s, last announced %s", s.sid, keys[len(keys)-1])
	}
	return keys, gcListings, err
}

func TestAnAnnouncementInDoubtIsMadeAnewUnderAnotherID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := fmt.Errorf("%w: answer lost", storage.ErrUnreachable)
		begun := time.Now()
		keys, listings, err := announcing(t, newFixture(t), fault.Action{After: down}, fault.Action{Before: errors.New("who knows")}, fault.Action{After: down})
		if err != nil || len(keys) != 4 {
			t.Fatalf("%v; announced %q", err, keys)
		}
		seen := map[string]bool{}
		for _, k := range keys {
			seen[k] = true
		}
		if len(seen) != 4 {
			t.Errorf("an announcement was sent twice: %q", keys)
		}
		if listings != 4 {
			t.Errorf("gc/ was listed %d times: each announcement states what was the newest run before it", listings)
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestAnAnnouncementThatStaysInDoubtFailsWithItsClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := fault.Action{Before: fmt.Errorf("%w: gone", storage.ErrUnreachable)}
		keys, _, err := announcing(t, newFixture(t), a, a, a, a, a, a, a, a, a)
		if !errors.Is(err, storage.ErrUnreachable) || len(keys) != announceTries {
			t.Errorf("%v after %d announcements", err, len(keys))
		}
	})
}

func TestARefusedAnnouncementIsNotRepeated(t *testing.T) {
	for _, no := range []error{storage.ErrDenied, storage.ErrFull, storage.ErrReadOnly, storage.ErrKey} {
		keys, _, err := announcing(t, newFixture(t), fault.Action{Before: no})
		if !errors.Is(err, no) || len(keys) != 1 {
			t.Errorf("%v after %d announcements", err, len(keys))
		}
	}
}

func TestTheEndOfTheContextEndsAnnouncing(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	r := f.open(t, fault.New(f.store, func(op fault.Op) fault.Action {
		if op.Verb == fault.Put {
			n++
			cancel()
			return fault.Action{Before: storage.ErrUnreachable}
		}
		return fault.Action{}
	}))
	if _, err := r.announce(ctx, options(), false); err == nil || n != 1 {
		t.Errorf("%v after %d announcements", err, n)
	}
}

func TestOnlyAnnouncementsArePutOnce(t *testing.T) {
	for key, want := range map[string]bool{"sessions/20260101T000000Z-0": true, "packs/20260101T000000Z-0/0-ab": false, "snapshots/main/sessions": false, "config": false} {
		if OncePut(key) != want {
			t.Errorf("%s: %v", key, !want)
		}
	}
}
