package pack

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

func TestSessionThatIsThereKeepsItsIndex(t *testing.T) {
	b := NewBuilder(Data, plainSealer{}, nil)
	add := func(sid, e string, want uint16) {
		t.Helper()
		if got, err := b.AddSession(Session{SID: sid, Encapsulation: []byte(e)}); err != nil || got != want {
			t.Errorf("session %s/%s has index %d, want %d: %v", sid, e, got, want, err)
		}
	}
	add("a", "1", 0)
	add("b", "1", 1)
	add("a", "1", 0)
	add("a", "2", 2)
	for i := len(b.dir.Sessions); i < MaxSessions; i++ {
		add(fmt.Sprint("c", i), "1", uint16(i))
	}
	if _, err := b.AddSession(Session{SID: "d", Encapsulation: []byte("1")}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one session too many: %v", err)
	}
	add("b", "1", 1)
}

func TestBuilderRefusesWhatItsDirectoryCouldNotHold(t *testing.T) {
	b, _, _ := filled(t, Data, plainSealer{})
	good := Entry{ID: randomID(t), Form: 13, Plain: 8192}
	digest := make([]chunk.Digest, 1)
	before := b.Size()
	for name, c := range map[string]struct {
		change  func(*Entry)
		sealed  []byte
		digests []chunk.Digest
	}{
		"nothing sealed":   {func(*Entry) {}, nil, digest},
		"no digest":        {func(*Entry) {}, []byte("x"), nil},
		"two digests":      {func(*Entry) {}, []byte("x"), make([]chunk.Digest, 2)},
		"stream, digest":   {func(e *Entry) { e.Form = 0 }, []byte("x"), digest},
		"no whole page":    {func(e *Entry) { e.Plain = 8191 }, []byte("x"), digest},
		"empty":            {func(e *Entry) { e.Plain = 0 }, []byte("x"), digest},
		"unknown session":  {func(e *Entry) { e.Session = 2 }, []byte("x"), digest},
		"unknown encoding": {func(e *Entry) { e.Encoding = 2 }, []byte("x"), digest},
	} {
		e := good
		c.change(&e)
		if err := b.Add(e, c.sealed, c.digests); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.Add(good, make([]byte, MaxSealed+1), digest); !errors.Is(err, ErrTooLarge) {
		t.Errorf("sealed too large: %v", err)
	}
	if b.Len() != 3 || b.Size() != before {
		t.Errorf("a refused chunk left something: %d chunks, %d bytes more", b.Len(), b.Size()-before)
	}
	if err := b.Add(good, []byte("x"), digest); err != nil {
		t.Errorf("the good chunk: %v", err)
	}
	if err := b.SetHeader(make([]byte, MaxHeader+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("header too long: %v", err)
	}
}

func TestEmptyDataPackIsNotFinished(t *testing.T) {
	if _, _, _, err := NewBuilder(Data, plainSealer{}, nil).Finish(); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
	if _, _, _, err := NewBuilder(Archive, plainSealer{}, nil).Finish(); err != nil {
		t.Errorf("an archive of nothing: %v", err)
	}
}

func TestPackIsFinishedOnce(t *testing.T) {
	b, _, _ := filled(t, Meta, plainSealer{})
	if _, _, _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := b.Finish(); err == nil {
		t.Error("finished twice")
	}
	if err := b.Add(Entry{ID: randomID(t), Plain: 1}, []byte("x"), nil); err == nil {
		t.Error("a chunk was added to a finished pack")
	}
}

func TestBuilderIsUsedAgainWithoutTraces(t *testing.T) {
	s := testSealer{1}
	b, _, _ := filled(t, Archive, s)
	_, _, first, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	kept := *first
	kept.Entries = append([]Entry(nil), first.Entries...)

	b.Reset(Meta, []byte("second"))
	if b.Len() != 0 {
		t.Errorf("%d chunks after Reset", b.Len())
	}
	e := Entry{ID: randomID(t), Plain: 5}
	if err := b.Add(e, []byte("chunk"), nil); err != nil {
		t.Fatal(err)
	}
	object, _, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	d, err := OpenDirectory(object, int64(len(object)), s, []byte("second"))
	if err != nil {
		t.Fatal(err)
	}
	if d.Kind != Meta || len(d.Entries) != 1 || d.Entries[0].ID != e.ID || len(d.Sessions) != 0 || d.Header != nil {
		t.Errorf("second pack: %+v", d)
	}
	b.Reset(Data, nil)
	if i, err := b.AddSession(kept.Sessions[1]); err != nil || i != 0 || len(b.dir.Sessions) != 1 {
		t.Errorf("a session of the first pack has index %d in the third: %v", i, err)
	}
	for i := range kept.Entries {
		if first.Entries[i] != kept.Entries[i] {
			t.Error("the first directory was overwritten")
		}
	}
}

func TestBuilderDoesNotMoveWhatItHasRoomFor(t *testing.T) {
	b := NewBuilder(Meta, testSealer{1}, testAAD)
	const chunks, size = 100, 100_000
	b.Grow(chunks * size)
	at := &b.buf[0]
	sealed := make([]byte, size)
	for range chunks {
		if err := b.Add(Entry{ID: randomID(t), Plain: size}, sealed, nil); err != nil {
			t.Fatal(err)
		}
	}
	object, _, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if &object[0] != at {
		t.Error("the object was copied")
	}
}

func TestBuilderKeepsNothingOfTheCaller(t *testing.T) {
	aad, header, enc := []byte("aad"), []byte("header"), []byte("encapsulation")
	s := testSealer{1}
	b := NewBuilder(Archive, s, aad)
	if err := b.SetHeader(header); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddSession(Session{SID: "s", Encapsulation: enc}); err != nil {
		t.Fatal(err)
	}
	clear(aad)
	clear(header)
	clear(enc)
	if i, err := b.AddSession(Session{SID: "s", Encapsulation: []byte("encapsulation")}); err != nil || i != 0 {
		t.Errorf("the session has index %d now: %v", i, err)
	}
	object, _, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	d, err := OpenDirectory(object, int64(len(object)), s, []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	if string(d.Header) != "header" || string(d.Sessions[0].Encapsulation) != "encapsulation" {
		t.Errorf("%+v", d)
	}
}
