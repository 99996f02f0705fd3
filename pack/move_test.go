package pack

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/keys"
)

const testRepository = "0123456789abcdef"

// original is a chunk as its session sealed it.
type original struct {
	sid   string
	plain []byte
	pages []chunk.Digest
}

// sealedPack makes a pack of chunks that a session of that name sealed, runs
// of pages and streams in turn.
func sealedPack(t *testing.T, bundle *keys.Bundle, s Sealer, sid string, chunks int) ([]byte, map[chunk.ID]original) {
	t.Helper()
	sealer, err := bundle.DataSealer(testRepository, sid)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(Data, s, []byte(sid))
	session, err := b.AddSession(Session{SID: sid, Encapsulation: sealer.Encapsulation()})
	if err != nil {
		t.Fatal(err)
	}
	originals := map[chunk.ID]original{}
	for i := range chunks {
		o := original{sid: sid, plain: bytes.Repeat([]byte(fmt.Sprint(sid, i)), 8192)[:2*8192]}
		e := Entry{ID: randomID(t), Encoding: Raw, Plain: uint32(len(o.plain)), Session: session}
		if i%2 == 0 {
			e.Form = 13
			o.pages = []chunk.Digest{chunk.Digest(randomID(t)), chunk.Digest(randomID(t))}
		}
		var sealed []byte
		sealed, e.Nonce = sealer.Seal(nil, o.plain, e.ID)
		if err := b.Add(e, sealed, o.pages); err != nil {
			t.Fatal(err)
		}
		originals[e.ID] = o
	}
	return finish(t, b), originals
}

func finish(t *testing.T, b *Builder) []byte {
	t.Helper()
	object, _, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(object)
}

func openPack(t *testing.T, object []byte, o Opener, aad string) (*Directory, [][]chunk.Prefix) {
	t.Helper()
	dir, err := OpenDirectory(object, int64(len(object)), o, []byte(aad))
	if err != nil {
		t.Fatal(err)
	}
	trailer, err := ParseTrailer(object, int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	off, n := trailer.DigestsAt()
	digests, err := OpenDigests(object[off:off+n], dir, o, []byte(aad))
	if err != nil {
		t.Fatal(err)
	}
	return dir, digests
}

// move adds every chunk of object for which keep says yes to b.
func move(t *testing.T, b *Builder, object []byte, o Opener, aad string, keep func(i int) bool) {
	t.Helper()
	dir, digests := openPack(t, object, o, aad)
	for i, e := range dir.Entries {
		if !keep(i) {
			continue
		}
		sealed := object[e.Offset:e.End()]
		var err error
		if e.Session, err = b.AddSession(dir.Sessions[e.Session]); err != nil {
			t.Fatal(err)
		}
		if err := b.AddSealed(e, sealed, digests[i]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMovedChunksOpenWithTheKeysOfTheirSessions(t *testing.T) {
	bundle, err := keys.Generate(testRepository, "owner")
	if err != nil {
		t.Fatal(err)
	}
	s := testSealer{1}
	first, want := sealedPack(t, bundle, s, "first", 6)
	second, more := sealedPack(t, bundle, s, "second", 5)
	for id, o := range more {
		want[id] = o
	}

	b := NewBuilder(Data, s, []byte("both"))
	move(t, b, second, s, "second", func(i int) bool { return i != 2 })
	move(t, b, first, s, "first", func(i int) bool { return i != 0 })
	both := finish(t, b)
	// And once more: what a run moved, a later one moves again, the sessions now in another order.
	b.Reset(Data, []byte("last"))
	move(t, b, both, s, "both", func(i int) bool { return i >= 4 })
	move(t, b, both, s, "both", func(i int) bool { return i < 4 })
	last := finish(t, b)

	dir, digests := openPack(t, last, s, "last")
	if len(dir.Entries) != 9 || len(dir.Sessions) != 2 {
		t.Fatalf("%d chunks of %d sessions", len(dir.Entries), len(dir.Sessions))
	}
	if dir.Sessions[0].SID != "first" {
		t.Errorf("the sessions stand in the old order: the test has lost its subject")
	}
	for i, e := range dir.Entries {
		o := want[e.ID]
		session := dir.Sessions[e.Session]
		if session.SID != o.sid {
			t.Errorf("chunk %d is of session %s, and was of %s", i, session.SID, o.sid)
		}
		opener, err := bundle.DataOpener(testRepository, session.SID, session.Encapsulation)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := opener.Open(nil, last[e.Offset:e.End()], e.ID, e.Nonce)
		if err != nil || !bytes.Equal(plain, o.plain) {
			t.Errorf("chunk %d does not open as it was: %v", i, err)
		}
		if len(digests[i]) != len(o.pages) {
			t.Fatalf("chunk %d has %d page digests, want %d", i, len(digests[i]), len(o.pages))
		}
		for j := range o.pages {
			if digests[i][j] != o.pages[j].Prefix() {
				t.Errorf("page digest %d of chunk %d is another", j, i)
			}
		}
	}
}

func TestMovedMetadataKeepsItsBytes(t *testing.T) {
	s := testSealer{1}
	from, sealed, _ := filled(t, Meta, s)
	object := finish(t, from)
	old, _ := openPack(t, object, s, string(testAAD))
	b := NewBuilder(Meta, s, testAAD)
	for i, e := range old.Entries[1:] {
		if err := b.AddSealed(e, sealed[i+1], nil); err != nil {
			t.Fatal(err)
		}
	}
	object = finish(t, b)
	dir, _ := openPack(t, object, s, string(testAAD))
	for i, e := range dir.Entries {
		if e.ID != old.Entries[i+1].ID || !bytes.Equal(object[e.Offset:e.End()], sealed[i+1]) {
			t.Errorf("chunk %d is another", i)
		}
	}
}

func TestAChunkThatDoesNotFitItsDigestsIsNotMoved(t *testing.T) {
	b, _, _ := filled(t, Data, plainSealer{})
	before := b.Size()
	e := Entry{ID: randomID(t), Form: 13, Plain: 2 * 8192, Sealed: 2}
	for name, c := range map[string]struct {
		session uint16
		digests int
		sealed  string
	}{
		"no digests": {0, 0, "xy"}, "a digest too few": {0, 1, "xy"}, "a digest too many": {0, 3, "xy"},
		"a session of another pack": {2, 2, "xy"}, "cut short": {0, 2, "x"}, "too long": {0, 2, "xyz"},
	} {
		e.Session = c.session
		if err := b.AddSealed(e, []byte(c.sealed), make([]chunk.Prefix, c.digests)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b.Len() != 3 || b.Size() != before {
		t.Errorf("a refused chunk left something: %d chunks, %d bytes more", b.Len(), b.Size()-before)
	}
	e.Session = 1
	if err := b.AddSealed(e, []byte("xy"), make([]chunk.Prefix, 2)); err != nil {
		t.Errorf("the good chunk: %v", err)
	}
}
