package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
)

const aFile = "data/base/5/16384"

// opened makes a source that counts how often it is opened.
func opened(path string, b []byte, form chunk.Form, at time.Time, count *int) Source {
	s := fileOf(path, form, b)
	stamp(&s, at, 77)
	inner := s.Open
	s.Open = func() (Content, error) { *count++; return inner() }
	return s
}

// TestAFileIsSkippedOnlyWhenNothingCanHaveChanged takes one guard of the rule away at a time and expects the file to be read.
func TestAFileIsSkippedOnlyWhenNothingCanHaveChanged(t *testing.T) {
	start := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	quiet := start.Add(-settled)
	h := &heap{}
	h.grow(100)
	then := h.bytes()
	h.pages[50] = h.fresh()
	now := h.bytes()
	for _, c := range []struct {
		name string
		edit func(s *Source, p *Parent)
		want int64 // bytes read
	}{
		{"nothing changed", func(*Source, *Parent) {}, 0},
		{"size", func(s *Source, _ *Parent) { s.Size++ }, 102400},
		{"modification time", func(s *Source, _ *Parent) { s.Stat.ModTime++ }, 102400},
		{"older modification time", func(s *Source, _ *Parent) { s.Stat.ModTime-- }, 102400},
		{"change time", func(s *Source, _ *Parent) { s.Stat.ChangeTime++ }, 102400},
		{"inode", func(s *Source, _ *Parent) { s.Stat.Inode++ }, 102400},
		{"device", func(s *Source, _ *Parent) { s.Stat.Device++ }, 102400},
		{"no trust in the parent", func(_ *Source, p *Parent) { p.Trusted = false }, 102400},
		{"a page was damaged", func(_ *Source, p *Parent) { p.damaged[aFile] = true }, 102400},
		// Written in the tick of the clock in which the parent read it: the time says nothing.
		{"modified right before the parent's start", func(_ *Source, p *Parent) { p.start = quiet.Add(settled - time.Nanosecond) }, 102400},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			n := 0
			src := opened(aFile, then, testForm, quiet, &n)
			first := w.shoot(t, map[string][]byte{aFile: then}, []Source{src}, nil, nil)
			first.manifest.Window.StartTime = start
			p := w.parent(t, first)
			p.Trusted = true
			n = 0
			content := then
			if c.want > 0 {
				content = now // a change that the file's times hide
			}
			src = opened(aFile, content, testForm, quiet, &n)
			c.edit(&src, p)
			second := w.shoot(t, map[string][]byte{aFile: content}, []Source{src}, p, nil)
			if second.result.Read != c.want || (n > 0) != (c.want > 0) {
				t.Errorf("read %d bytes, opened %d times, want %d bytes", second.result.Read, n, c.want)
			}
			if c.want == 0 && (second.result.SkippedFiles != 1 || second.result.SkippedFileBytes != int64(len(then))) {
				t.Errorf("%+v", second.result.Tally)
			}
		})
	}
}

func TestStreamsAreSkippedLikeRelations(t *testing.T) {
	start := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	w := newWorld()
	b := relation(rand.New(rand.NewPCG(5, 6)), 300)
	n := 0
	files := map[string][]byte{"data/pg_xact/0000": b}
	first := w.shoot(t, files, []Source{opened("data/pg_xact/0000", b, 0, start.Add(-time.Hour), &n)}, nil, nil)
	first.manifest.Window.StartTime = start
	p := w.parent(t, first)
	p.Trusted, n = true, 0
	if r := w.shoot(t, files, []Source{opened("data/pg_xact/0000", b, 0, start.Add(-time.Hour), &n)}, p, nil).result; r.Read != 0 || n != 0 {
		t.Errorf("read %d bytes, opened %d times", r.Read, n)
	}
}

// TestBlocksAreSkippedOnlyWhereTheParentHasThem: a page behind the parent's end is read whatever the set says, and without trust all are.
func TestBlocksAreSkippedOnlyWhereTheParentHasThem(t *testing.T) {
	h := &heap{}
	h.grow(1000)
	files := map[string][]byte{aFile: h.bytes()}
	w := newWorld()
	first := w.shoot(t, files, []Source{fileOf(aFile, testForm, files[aFile])}, nil, nil)

	h.pages[17] = h.fresh()
	h.grow(5)
	files[aFile] = h.bytes()
	src := fileOf(aFile, testForm, files[aFile])
	src.Changed = pageSet{17: true}
	p := w.parent(t, first)
	p.Trusted = true
	r := w.shoot(t, files, []Source{src}, p, nil).result
	if r.Read != 6<<testForm || r.ChangedPages != 6 || r.SkippedBlockBytes != 999<<testForm {
		t.Errorf("trusted: %+v", r.Tally)
	}
	p.Trusted = false
	src.Changed = pageSet{}
	if r := w.shoot(t, files, []Source{src}, p, nil).result; r.Read != 1005<<testForm || r.ChangedPages != 6 {
		t.Errorf("not trusted: %+v", r.Tally)
	}
	// Another file under the name, put there by a person.
	p.Trusted = true
	for _, move := range []func(*Source){func(s *Source) { s.Stat.Inode++ }, func(s *Source) { s.Stat.Device++ }} {
		other := src
		move(&other)
		if r := w.shoot(t, files, []Source{other}, p, nil).result; r.Read != 1005<<testForm {
			t.Errorf("another file: %+v", r.Tally)
		}
	}
	// A damaged page's file is read in full, so that the damage is reported again.
	p.Trusted, p.damaged[aFile] = true, true
	if r := w.shoot(t, files, []Source{src}, p, nil).result; r.Read != 1005<<testForm {
		t.Errorf("damaged: %+v", r.Tally)
	}
}

func TestAFileOfWhichNoPageIsListedKeepsItsRecipe(t *testing.T) {
	h := &heap{}
	h.grow(3000)
	files := map[string][]byte{aFile: h.bytes()}
	w := newWorld()
	first := w.shoot(t, files, []Source{fileOf(aFile, testForm, files[aFile])}, nil, nil)
	src := fileOf(aFile, testForm, files[aFile])
	src.Changed = pageSet{}
	p := w.parent(t, first)
	p.Trusted = true
	meta, written := len(w.meta), w.written
	r := w.shoot(t, files, []Source{src}, p, nil).result
	if r.Read != 0 || r.SkippedBlockBytes != 3000<<testForm || w.written != written || len(w.meta) != meta {
		t.Errorf("%+v; %d new metadata chunks, %d bytes written", r.Tally, len(w.meta)-meta, w.written-written)
	}
}

// TestLostNotesCostNothingButReading: the digests come from the packs, and the increment is the same.
func TestLostNotesCostNothingButReading(t *testing.T) {
	var written [2]int64
	for i, forget := range []bool{false, true} {
		r := rand.New(rand.NewPCG(9, 9))
		h := &heap{}
		h.grow(20000)
		h.pages[3], h.pages[4] = 0, 0
		w := newWorld()
		files := map[string][]byte{aFile: h.bytes()}
		last := w.shoot(t, files, []Source{fileOf(aFile, testForm, files[aFile])}, nil, nil)
		w.written, w.forget = 0, forget
		for range 5 {
			for range 300 {
				h.pages[r.IntN(len(h.pages))] = h.fresh()
			}
			files[aFile] = h.bytes()
			last = w.shoot(t, files, []Source{fileOf(aFile, testForm, files[aFile])}, w.parent(t, last), nil)
		}
		if (w.asked > 0) != forget {
			t.Errorf("digests were read from packs %d times", w.asked)
		}
		written[i] = w.written
	}
	if written[0] != written[1] {
		t.Errorf("%d bytes written with the notes, %d without", written[0], written[1])
	}
}

// TestChunksThatAreGoneAreStoredAgain: what the view does not hold any more is not inherited, by a skipped file or by a recipe.
func TestChunksThatAreGoneAreStoredAgain(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		t.Run(fmt.Sprint("trusted ", trusted), func(t *testing.T) {
			h := &heap{}
			h.grow(2000)
			files := map[string][]byte{aFile: h.bytes()}
			w := newWorld()
			src := fileOf(aFile, testForm, files[aFile])
			first := w.shoot(t, files, []Source{src}, nil, nil)
			data, _ := w.reach(t, first)
			n := 0
			for id := range data {
				if n++; n%5 == 0 {
					w.gone[id] = true
				}
			}
			p := w.parent(t, first)
			p.Trusted = trusted
			src.Changed = pageSet{}
			if trusted {
				p.start = time.Now().Add(time.Hour)
			}
			second := w.shoot(t, files, []Source{src}, p, nil)
			again, _ := w.reach(t, second)
			for id := range again {
				if w.gone[id] {
					t.Fatalf("chunk %s is gone and still named", id.Short())
				}
			}
		})
	}
}

// TestWhatTheParentCannotTellIsReadAfresh: metadata that does not come leaves a complete snapshot.
func TestWhatTheParentCannotTellIsReadAfresh(t *testing.T) {
	h := &heap{}
	h.grow(2000)
	files := map[string][]byte{aFile: h.bytes()}
	w := newWorld()
	src := fileOf(aFile, testForm, files[aFile])
	first := w.shoot(t, files, []Source{src}, nil, nil)
	p := w.parent(t, first)
	p.Trusted = true
	for _, id := range p.files[aFile].Recipe.Chunks {
		delete(w.meta, id)
	}
	var lost error
	r, err := Take(t.Context(), []Source{src}, Options{
		Key: chunk.Key{1}, NewWriter: func() (Writer, error) { return w, nil }, Parent: p, Notes: w,
		Lost: func(_ string, err error) { lost = err },
	})
	if err != nil || !errors.Is(lost, errAbsent) {
		t.Fatalf("%v; lost %v", err, lost)
	}
	w.readBack(t, shot{result: r, files: files})
}

// TestOnlyWhatIsNewIsVerified: a page that the parent verified in the same place is not verified again; one that the check reads
// again is stored as it then is.
func TestOnlyWhatIsNewIsVerified(t *testing.T) {
	h := &heap{}
	h.grow(500)
	good := h.bytes()
	w := newWorld()
	first := w.shoot(t, map[string][]byte{aFile: good}, []Source{fileOf(aFile, testForm, good)}, nil, nil)
	h.pages[10], h.pages[20] = h.fresh(), h.fresh()
	want := h.bytes()
	torn := slices.Clone(want)
	torn[20<<testForm+100] = 0xEE // read while it was being written
	src := fileOf(aFile, testForm, torn)
	var checked []int64
	src.Check = func(_ context.Context, pages []byte, first int64) (Checked, error) {
		for i := range len(pages) >> testForm {
			checked = append(checked, first+int64(i))
			page := pages[i<<testForm : (i+1)<<testForm]
			copy(page, want[(first+int64(i))<<testForm:])
		}
		return Checked{Reread: true}, nil
	}
	w.shoot(t, map[string][]byte{aFile: want}, []Source{src}, w.parent(t, first), nil)
	if !slices.Equal(checked, []int64{10, 20}) {
		t.Errorf("pages %v were verified, want 10 and 20", checked)
	}
}

func TestAFileThatShrinksWhileItIsComparedIsStoredInWholePages(t *testing.T) {
	h := &heap{}
	h.grow(5000)
	w := newWorld()
	files := map[string][]byte{aFile: h.bytes()}
	first := w.shoot(t, files, []Source{fileOf(aFile, testForm, files[aFile])}, nil, nil)
	for i := 0; i < 5000; i += 7 {
		h.pages[i] = h.fresh()
	}
	b := h.bytes()
	const left = 2500<<testForm + 300
	src := fileOf(aFile, testForm, b)
	src.Open = func() (Content, error) { return &shrinking{content{bytes.NewReader(b)}, left}, nil }
	files[aFile] = b[:2500<<testForm]
	w.shoot(t, files, []Source{src}, w.parent(t, first), nil)
}

// TestNotesOfSkippedFilesAreKept: what was noted of a file is as good for the next snapshot if the file was not even opened.
func TestNotesOfSkippedFilesAreKept(t *testing.T) {
	start := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	h := &heap{}
	h.grow(20000)
	b := h.bytes()
	n := 0
	src := opened(aFile, b, testForm, start.Add(-time.Hour), &n)
	w := newWorld()
	files := map[string][]byte{aFile: b}
	first := w.shoot(t, files, []Source{src}, nil, nil)
	first.manifest.Window.StartTime = start
	for _, how := range []string{"whole", "blocks", "read"} {
		clear(w.kept)
		p := w.parent(t, first)
		p.Trusted = how != "read"
		if how == "blocks" {
			src.Stat.ChangeTime++
			src.Changed = pageSet{}
		}
		w.shoot(t, files, []Source{src}, p, nil)
		for key := range w.notes {
			if !w.kept[key] {
				t.Errorf("%s: a note was not kept", how)
			}
		}
		if len(w.notes) != 4 { // three windows of digests, one of sizes
			t.Errorf("%s: %d notes", how, len(w.notes))
		}
	}
}

// TestAStandbysFileTimesDoNotVouchForOlderPages: a page changed after the restart point that a standby's backup begins with; no summary
// up to there lists it, so the parent's page is kept. The next backup begins behind the change, and must see it.
func TestAStandbysFileTimesDoNotVouchForOlderPages(t *testing.T) {
	start := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, others := range []bool{false, true} { // whether another page of the file is listed
		t.Run(fmt.Sprint("another page listed ", others), func(t *testing.T) {
			h := &heap{}
			h.grow(300)
			w := newWorld()
			options := func(p *Parent) Options {
				return Options{Jobs: 1, Key: chunk.Key{1}, NewWriter: func() (Writer, error) { return w, nil }, Notes: w, Parent: p, Replaying: true}
			}
			n := 0
			one := opened(aFile, h.bytes(), testForm, start.Add(-time.Hour), &n)
			r, err := Take(t.Context(), []Source{one}, options(nil))
			if err != nil {
				t.Fatal(err)
			}
			parent := func(r *Result, start time.Time) *Parent {
				m := &Manifest{Root: r.Root, Server: Server{Checksums: true}}
				m.Window.StartTime = start
				p, err := LoadParent(t.Context(), m, w)
				if err != nil {
					t.Fatal(err)
				}
				p.Trusted = true
				return p
			}
			h.pages[100] = h.fresh() // replayed and written at 12:56, behind the restart point
			changed := pageSet{}
			if others {
				h.pages[5] = h.fresh()
				changed[5] = true
			}
			two := opened(aFile, h.bytes(), testForm, start.Add(56*time.Minute), &n)
			two.Changed = changed
			if r, err = Take(t.Context(), []Source{two}, options(parent(r, start))); err != nil {
				t.Fatal(err)
			}
			three := two
			three.Changed = pageSet{100: true}
			if r, err = Take(t.Context(), []Source{three}, options(parent(r, start.Add(time.Hour)))); err != nil {
				t.Fatal(err)
			}
			w.readBack(t, shot{result: r, files: map[string][]byte{aFile: h.bytes()}})
			if r.SkippedBlockBytes != 299<<testForm {
				t.Errorf("%+v: summaries are to be believed all the same", r.Tally)
			}
		})
	}
}

// TestAPageThatWasExcusedIsVerifiedNextTime: what was wrong when it was read and explained by being written just then may stay wrong.
func TestAPageThatWasExcusedIsVerifiedNextTime(t *testing.T) {
	h := &heap{}
	h.grow(100)
	b := h.bytes()
	for _, based := range []bool{false, true} {
		w := newWorld()
		var parent *Parent
		if based {
			other := bytes.Repeat([]byte{1}, len(b))
			parent = w.parent(t, w.shoot(t, map[string][]byte{aFile: other}, []Source{fileOf(aFile, testForm, other)}, nil, nil))
		}
		src := fileOf(aFile, testForm, b)
		src.Check = func(context.Context, []byte, int64) (Checked, error) { return Checked{Excused: true}, nil }
		first := w.shoot(t, map[string][]byte{aFile: b}, []Source{src}, parent, nil)
		if !slices.Equal(first.result.Unsettled, []string{aFile}) {
			t.Fatalf("unsettled: %v", first.result.Unsettled)
		}
		first.manifest.Unsettled = first.result.Unsettled
		p := w.parent(t, first)
		p.Trusted = true
		damage := DamagedPage{Path: aFile, Block: 7}
		src.Changed = pageSet{}
		src.Check = func(_ context.Context, pages []byte, first int64) (Checked, error) {
			if first <= 7 && 7 < first+int64(len(pages)>>testForm) {
				return Checked{Damaged: []DamagedPage{damage}, Reread: true}, nil
			}
			return Checked{}, nil
		}
		second := w.shoot(t, map[string][]byte{aFile: b}, []Source{src}, p, nil)
		if !slices.Equal(second.result.Damaged, []DamagedPage{damage}) {
			t.Errorf("damaged: %v", second.result.Damaged)
		}
	}
}

// TestAStorageThatDoesNotAnswerIsNoLoss: it ends the backup, instead of storing everything again.
func TestAStorageThatDoesNotAnswerIsNoLoss(t *testing.T) {
	h := &heap{}
	h.grow(2000)
	files := map[string][]byte{aFile: h.bytes()}
	w := newWorld()
	src := fileOf(aFile, testForm, files[aFile])
	p := w.parent(t, w.shoot(t, files, []Source{src}, nil, nil))
	for _, id := range p.files[aFile].Recipe.Chunks {
		delete(w.meta, id)
	}
	p.IsLoss = func(error) bool { return false }
	_, err := Take(t.Context(), []Source{src}, Options{Key: chunk.Key{1}, NewWriter: func() (Writer, error) { return w, nil }, Parent: p, Notes: w})
	if !errors.Is(err, errAbsent) {
		t.Error(err)
	}
}
