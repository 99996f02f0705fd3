package repo

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/index"
)

func TestSealedObjectsShowTheirPayload(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	sid, _, err := write(t.Context(), r, pieces(1, 3))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"sessions/" + sid:       `"cluster":"`,
		"snapshots/main/" + sid: `"outcome":"SNAPSHOT"`,
	} {
		b, err := r.Payload(t.Context(), key)
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %q, %v", key, b, err)
		}
	}
	b, err := r.Payload(t.Context(), "index/"+sid+"/0")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := index.Parse(b); err != nil || len(s.Packs) == 0 {
		t.Errorf("index segment: %v, %v", s, err)
	}
	for _, key := range []string{"config", "keys/x", "packs/x", "wal/x"} {
		if _, err := r.Payload(t.Context(), key); !errors.Is(err, ErrMissing) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
