package repo

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/fault"
)

const walKey = "wal/main/7/00000001/000000010000000000000001"

// walLike makes n bytes, part of which compress.
func walLike(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b[:n/2])
	return b
}

func TestArchiveFilesComeBackWithTheirHeaders(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	for i, n := range []int{0, 1, archiveBlock - 1, archiveBlock, 3*archiveBlock + 5} {
		key := fmt.Sprint(walKey, i)
		content := walLike(n)
		if got, err := r.PutArchive(t.Context(), key, []byte("header"), content); err != nil || got != StoredNew {
			t.Fatalf("%d bytes: %v, %v", n, got, err)
		}
		header, got, err := r.GetArchive(t.Context(), key)
		if err != nil || string(header) != "header" || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: header %q, content differs or %v", n, header, err)
		}
		header, size, err := r.ArchiveHeader(t.Context(), key)
		if err != nil || string(header) != "header" || size != int64(n) {
			t.Errorf("%d bytes: header %q, size %d, %v", n, header, size, err)
		}
	}
}

func TestTheSameArchiveFileAgainSucceedsAndAnotherIsRefused(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	content := walLike(100_000)
	for i, want := range []Stored{StoredNew, StoredSame} {
		if got, err := r.PutArchive(t.Context(), walKey, nil, content); err != nil || got != want {
			t.Errorf("put %d: %v, %v", i+1, got, err)
		}
	}
	other := bytes.Clone(content)
	other[99_999] ^= 1
	if _, err := r.PutArchive(t.Context(), walKey, nil, other); !errors.Is(err, ErrConflict) {
		t.Errorf("other content: %v", err)
	}
	if _, got, err := r.GetArchive(t.Context(), walKey); err != nil || !bytes.Equal(got, content) {
		t.Errorf("what was stored first is gone: %v", err)
	}
}

func TestAWriterRecognisesItsArchiveFileWithoutOpeningIt(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	writer, err := r.bundle.Issue(keys.IssueOptions{Name: "writer", Role: keys.Writer, Clusters: []string{keys.AnyCluster}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := newRepo(f.store, r.config, writer)
	if err != nil {
		t.Fatal(err)
	}
	content := walLike(100_000)
	for _, want := range []Stored{StoredNew, StoredSame} {
		if got, err := w.PutArchive(t.Context(), walKey, nil, content); err != nil || got != want {
			t.Errorf("%v, %v", got, err)
		}
	}
	if _, _, err := w.GetArchive(t.Context(), walKey); !errors.Is(err, keys.ErrRole) {
		t.Errorf("a writer reads WAL: %v", err)
	}
}

func TestALostAnswerToAPushIsSuccess(t *testing.T) {
	f := newFixture(t)
	armed := false
	s := fault.New(f.store, func(op fault.Op) fault.Action {
		if armed && op.Verb == fault.Put {
			return fault.Action{After: storage.ErrUnreachable}
		}
		return fault.Action{}
	})
	r := f.open(t, s)
	armed = true
	if _, err := r.PutArchive(t.Context(), walKey, nil, walLike(1000)); err != nil {
		t.Error(err)
	}
}

func TestAnArchiveFileUnderAnotherNameDoesNotOpen(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	if _, err := r.PutArchive(t.Context(), walKey, nil, walLike(1000)); err != nil {
		t.Fatal(err)
	}
	b, err := f.store.Get(t.Context(), walKey, storage.Range{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.store.Put(t.Context(), walKey+"2", b); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.GetArchive(t.Context(), walKey+"2"); !errors.Is(err, ErrDamaged) {
		t.Errorf("content: %v", err)
	}
	if _, _, err := r.ArchiveHeader(t.Context(), walKey+"2"); !errors.Is(err, ErrDamaged) {
		t.Errorf("header: %v", err)
	}
}

func TestMemoryThatIsGivenBackIsUsedForOtherContents(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	sizes := []int{3*archiveBlock + 5, 0, 1, archiveBlock, 5 * archiveBlock, 7}
	for i, n := range sizes {
		if _, err := r.PutArchive(t.Context(), fmt.Sprint(walKey, i), []byte{byte(i)}, walLike(n)); err != nil {
			t.Fatal(err)
		}
	}
	var headers [][]byte
	for range 2 {
		for i, n := range sizes {
			header, got, err := r.GetArchive(t.Context(), fmt.Sprint(walKey, i))
			if err != nil || !bytes.Equal(got, walLike(n)) {
				t.Errorf("%d bytes: content differs or %v", n, err)
			}
			headers = append(headers, header)
			r.Recycle(got)
		}
	}
	for i, h := range headers {
		if !bytes.Equal(h, []byte{byte(i % len(sizes))}) {
			t.Errorf("header %d is %v by now", i, h)
		}
	}
}

// TestAnArchiveFileOfTheFirstVersionIsReadAndRecognised: its digest is that of the whole content.
func TestAnArchiveFileOfTheFirstVersionIsReadAndRecognised(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	content := walLike(2*archiveBlock + 5)
	for name, digest := range map[string]func(*archiver) []byte{
		"right": func(*archiver) []byte { return content }, "wrong": func(*archiver) []byte { return content[1:] },
	} {
		w, err := r.newArchiver()
		if err != nil {
			t.Fatal(err)
		}
		h := archiveHeader{version: archiveOfContent, mac: w.hasher.StreamID(digest(w)), size: uint64(len(content)), user: []byte("header")}
		object, err := r.buildArchive(t.Context(), walKey+name, &h, w, content)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.store.Put(t.Context(), walKey+name, object); err != nil {
			t.Fatal(err)
		}
	}
	if _, got, err := r.GetArchive(t.Context(), walKey+"right"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("content differs or %v", err)
	}
	if got, err := r.PutArchive(t.Context(), walKey+"right", nil, content); err != nil || got != StoredSame {
		t.Errorf("put again: %v, %v", got, err)
	}
	if _, _, err := r.GetArchive(t.Context(), walKey+"wrong"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a header that does not fit is read: %v", err)
	}
	if _, err := r.PutArchive(t.Context(), walKey+"wrong", nil, content); !errors.Is(err, ErrConflict) {
		t.Errorf("other content: %v", err)
	}
}

func TestContentIsComparedWithAnArchiveFileWithoutOpeningIt(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	for i, n := range []int{0, 1, archiveBlock, 3*archiveBlock + 5} {
		key := fmt.Sprint(walKey, i)
		content := walLike(n)
		if _, err := r.PutArchive(t.Context(), key, nil, content); err != nil {
			t.Fatal(err)
		}
		if same, err := r.SameArchive(t.Context(), key, content); err != nil || !same {
			t.Errorf("%d bytes: %v, %v", n, same, err)
		}
		other := append(bytes.Clone(content), 1)
		if same, err := r.SameArchive(t.Context(), key, other); err != nil || same {
			t.Errorf("%d bytes and one: %v, %v", n, same, err)
		}
	}
	if _, err := r.SameArchive(t.Context(), walKey+"none", nil); !errors.Is(err, storage.ErrNotExist) {
		t.Error(err)
	}
}
