package walahead

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const segment = "000000010000000000000007"

func owner() Owner { return Owner{Place: "s3://b/p", Repository: "ab12", Cluster: "main", System: 7} }

func stateOf(t *testing.T, path string) FileState {
	t.Helper()
	s, err := StateOf(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestARecordCountsForTheVeryFileAndOwnerOnly(t *testing.T) {
	cache, now := t.TempDir(), time.Now()
	path := filepath.Join(t.TempDir(), segment)
	if err := os.WriteFile(path, bytes.Repeat([]byte("wal "), 1<<15), 0o600); err != nil {
		t.Fatal(err)
	}
	r, s := NewRecords(cache, owner()), stateOf(t, path)
	if AnyRecord(cache, segment) || r.Has(segment, s, now) {
		t.Error("there is none yet")
	}
	if err := r.Keep(segment, s, now); err != nil {
		t.Fatal(err)
	}
	if !AnyRecord(cache, segment) || !r.Has(segment, s, now) || !r.Has(segment, stateOf(t, path), now.Add(recordKept-1)) {
		t.Error("it is the file")
	}
	for what, change := range map[string]func(*FileState){
		"device": func(s *FileState) { s.Device++ }, "inode": func(s *FileState) { s.Inode++ }, "size": func(s *FileState) { s.Size++ },
		"mtime": func(s *FileState) { s.Mtime++ }, "ctime": func(s *FileState) { s.Ctime++ }, "content": func(s *FileState) { s.Ends[3]++ },
	} {
		other := s
		if change(&other); r.Has(segment, other, now) {
			t.Errorf("another %s", what)
		}
	}
	for what, change := range map[string]func(*Owner){
		"place": func(o *Owner) { o.Place += "x" }, "repository": func(o *Owner) { o.Repository = "ab13" },
		"cluster": func(o *Owner) { o.Cluster = "other" }, "system": func(o *Owner) { o.System++ },
	} {
		o := owner()
		change(&o)
		other := NewRecords(cache, o)
		if other.Has(segment, s, now) {
			t.Errorf("another %s", what)
		}
		// Also if its file came into the other's directory.
		if err := os.Rename(r.dir, other.dir); err != nil {
			t.Fatal(err)
		}
		if other.Has(segment, s, now) {
			t.Errorf("another %s, by its content", what)
		}
		if err := os.Rename(other.dir, r.dir); err != nil {
			t.Fatal(err)
		}
	}
	next := "000000010000000000000008"
	if err := os.Link(filepath.Join(r.dir, segment), filepath.Join(r.dir, next)); err != nil {
		t.Fatal(err)
	}
	if r.Has(next, s, now) {
		t.Error("another name")
	}
	if r.Has(segment, s, now.Add(recordKept)) || r.Has(segment, s, now.Add(-time.Second)) {
		t.Error("another time")
	}
	if none := NewRecords("", owner()); none.Has(segment, s, now) || none.Keep(segment, s, now) == nil || AnyRecord("", segment) {
		t.Error("without a cache")
	}
	r.Drop(segment)
	if r.Has(segment, s, now) {
		t.Error("it was used")
	}
}

func TestADamagedRecordIsNone(t *testing.T) {
	cache, now := t.TempDir(), time.Now()
	r, s := NewRecords(cache, owner()), FileState{Size: 5}
	if err := r.Keep(segment, s, now); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dir, segment)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		damaged := bytes.Clone(text)
		damaged[i] ^= 1
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if r.Has(segment, s, now) {
			t.Fatalf("byte %d is another, and believed", i)
		}
	}
	for _, n := range []int{0, 1, len(text) / 2, len(text) - 1} {
		if err := os.WriteFile(path, text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if r.Has(segment, s, now) {
			t.Errorf("%d bytes of it are believed", n)
		}
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if r.Has(segment, s, now) {
		t.Error("one that is not only ours is believed")
	}
}

func TestAFileThatChangedAMomentAgoIsNotSettled(t *testing.T) {
	path := filepath.Join(t.TempDir(), segment)
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := stateOf(t, path)
	old := s.Mtime - int64(time.Hour)
	if s.Settled(time.Unix(0, s.Mtime)) || !s.Settled(time.Unix(0, max(s.Mtime, s.Ctime)).Add(settled)) {
		t.Error("by its own times")
	}
	if err := os.Chtimes(path, time.Unix(0, old), time.Unix(0, old)); err != nil {
		t.Fatal(err)
	}
	if s := stateOf(t, path); s.Mtime != old || s.Settled(time.Unix(0, s.Ctime)) {
		t.Error("a time that was set back hides a change")
	}
}

func TestTidyRemovesWhatNobodyCameFor(t *testing.T) {
	cache, now := t.TempDir(), time.Now()
	r := NewRecords(cache, owner())
	for _, name := range []string{segment, "000000010000000000000008"} {
		if err := r.Keep(name, FileState{}, now); err != nil {
			t.Fatal(err)
		}
	}
	long := now.Add(-recordKept - time.Minute)
	if err := os.Chtimes(filepath.Join(r.dir, segment), long, long); err != nil {
		t.Fatal(err)
	}
	Tidy(cache, now)
	if AnyRecord(cache, segment) || !AnyRecord(cache, "000000010000000000000008") {
		t.Error("not the old one alone")
	}
	Tidy(cache, now.Add(2*recordKept))
	Tidy(cache, now.Add(4*recordKept))
	if _, err := os.Stat(r.dir); err == nil {
		t.Error("the empty directory stays")
	}
	Tidy(t.TempDir(), now)
}
