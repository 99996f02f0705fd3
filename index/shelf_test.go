package index

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/chunk"
)

// TestShelvedNotesNeverShareBlocks puts and releases notes of all sizes at random: each reads back as it was put while it stands there,
// and the file does not grow beyond what stands there at most.
func TestShelvedNotesNeverShareBlocks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "notes")
	s, err := openShelf(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	type note struct {
		at int64
		b  []byte
	}
	var notes []note
	var most, now int64
	check := func() {
		t.Helper()
		for _, n := range notes {
			if got, err := s.get(nil, n.at, len(n.b)); err != nil || !bytes.Equal(got, n.b) {
				t.Fatalf("the note at %d is another: %v", n.at, err)
			}
		}
	}
	for round := range 3000 {
		if len(notes) > 0 && r.IntN(5) < 2 {
			var freed []span
			for range 1 + r.IntN(3) {
				if len(notes) == 0 {
					break
				}
				i := r.IntN(len(notes))
				freed = append(freed, span{notes[i].at, blocks(len(notes[i].b))})
				now -= blocks(len(notes[i].b))
				notes = slices.Delete(notes, i, i+1)
			}
			s.release(freed)
		} else {
			b := bytes.Repeat([]byte{byte(round)}, 1+r.IntN(40_000))
			at, err := s.put(b)
			if err != nil {
				t.Fatal(err)
			}
			notes = append(notes, note{at, b})
			now += blocks(len(b))
			most = max(most, now)
		}
		if round%300 == 0 {
			check()
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			var used []span
			for _, n := range notes {
				used = append(used, span{n.at, blocks(len(n.b))})
			}
			if s, err = openShelf(path, used); err != nil {
				t.Fatal(err)
			}
			check()
		}
	}
	if s.end > most*2 {
		t.Errorf("%d blocks for at most %d", s.end, most)
	}
	var all []span
	for _, n := range notes {
		all = append(all, span{n.at, blocks(len(n.b))})
	}
	s.release(all)
	if info, err := os.Stat(path); err != nil || info.Size() != 0 || s.end != 0 {
		t.Errorf("an empty file has %d bytes, %v", info.Size(), err)
	}
}

// TestAFileThatLostItsEndHasNoNotesThere: the database may know of notes that the file does not hold.
func TestAFileThatLostItsEndHasNoNotesThere(t *testing.T) {
	dir := t.TempDir()
	c, err := OpenCache(dir, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	key := chunk.ID{1}
	if err := c.PutNote(key, make([]byte, 9000)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, shelfName), 5000); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Note(key, nil); len(b) != 0 || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := c.PutNote(key, []byte("small")); err != nil {
		t.Fatal(err)
	}
	if b, err := c.Note(key, nil); string(b) != "small" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSweptNotesGiveTheirRoomBack: session after session writes all notes anew, and the file holds two sets of them at most.
func TestSweptNotesGiveTheirRoomBack(t *testing.T) {
	dir := t.TempDir()
	for round := range 20 {
		c, err := OpenCache(dir, "0123456789abcdef")
		if err != nil {
			t.Fatal(err)
		}
		keep := map[chunk.ID]struct{}{}
		for i := range 30 {
			key := chunk.ID{byte(round), byte(i)}
			keep[key] = struct{}{}
			if err := c.PutNote(key, bytes.Repeat([]byte{byte(i)}, 60_000)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Sweep(keep); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, shelfName)); err != nil || info.Size() > 2*30*61_440 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}
