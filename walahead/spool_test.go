package walahead

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
)

const spoolSize = pg.MinSegmentSize

func spoolOptions(t *testing.T) SpoolOptions {
	return SpoolOptions{Owner: owner(), Key: chunk.Key{1}, PGData: t.TempDir(), SegmentSize: spoolSize, Bytes: 5 << 20}
}

func openSpool(t *testing.T, cache string, o SpoolOptions) *Spool {
	t.Helper()
	s, err := OpenSpool(cache, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func segmentOf(tli pg.Timeline, n uint64) pg.Segment { return pg.Segment{Timeline: tli, Number: n} }

func put(t *testing.T, s *Spool, segments ...pg.Segment) {
	t.Helper()
	for _, seg := range segments {
		if err := s.Put(seg.Name(spoolSize), bytes.Repeat([]byte{byte(seg.Number)}, int(spoolSize))); err != nil {
			t.Fatal(err)
		}
	}
}

// take returns the first byte of what is served; 0: nothing.
func take(t *testing.T, s *Spool, seg pg.Segment) byte {
	t.Helper()
	to := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	served, err := s.Take(seg.Name(spoolSize), to)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if served != (err == nil) {
		t.Fatalf("served %v, %v", served, err)
	}
	if !served {
		return 0
	}
	if !bytes.Equal(b, bytes.Repeat(b[:1], int(spoolSize))) {
		t.Error("not what was put")
	}
	return b[0]
}

func TestASpoolServesItsOwnOnce(t *testing.T) {
	cache, o := t.TempDir(), spoolOptions(t)
	s, seg := openSpool(t, cache, o), segmentOf(1, 7)
	put(t, s, seg)
	for what, change := range map[string]func(*SpoolOptions){
		"place": func(o *SpoolOptions) { o.Owner.Place += "x" }, "repository": func(o *SpoolOptions) { o.Owner.Repository += "x" },
		"cluster": func(o *SpoolOptions) { o.Owner.Cluster = "other" }, "system": func(o *SpoolOptions) { o.Owner.System++ },
		"data directory": func(o *SpoolOptions) { o.PGData = t.TempDir() }, "key": func(o *SpoolOptions) { o.Key[0]++ },
	} {
		other := o
		change(&other)
		x := openSpool(t, cache, other)
		if x.dir != s.dir { // also if the files came there
			for _, name := range []string{seg.Name(spoolSize), seg.Name(spoolSize) + sealSuffix} {
				if err := os.Link(s.path(name), x.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if take(t, x, seg) != 0 {
			t.Errorf("another %s is served", what)
		}
		put(t, s, seg)
	}
	if take(t, s, seg) != 7 || take(t, s, seg) != 0 {
		t.Error("not served, or twice")
	}
	put(t, s, seg)
	if _, err := s.Take(seg.Name(spoolSize), filepath.Join(t.TempDir(), "no", "such")); err == nil {
		t.Error("a path that cannot be written to")
	}
	gone := o
	gone.PGData = filepath.Join(o.PGData, "gone")
	if _, err := OpenSpool(cache, gone); err == nil {
		t.Error("a spool of no data directory")
	}
	if _, err := OpenSpool("", o); err == nil {
		t.Error("a spool without a cache")
	}
}

// TestASpoolServesOnlyTheVeryFileThatWasPut: every byte was verified then, and none is again.
func TestASpoolServesOnlyTheVeryFileThatWasPut(t *testing.T) {
	s, seg := openSpool(t, t.TempDir(), spoolOptions(t)), segmentOf(1, 7)
	name := seg.Name(spoolSize)
	path := s.path(name)
	reseal := func() error { // as Put would have done
		state, err := StateOf(path)
		if err != nil {
			return err
		}
		seal, err := s.seal(name, state)
		if err != nil {
			return err
		}
		return replace(path+sealSuffix, seal)
	}
	for what, spoil := range map[string]func(was FileState) error{
		"one changed in its midst, with its old time": func(was FileState) error {
			for now := was; now.Ctime == was.Ctime; { // until the kernel's clock has ticked
				if err := os.WriteFile(path, bytes.Repeat([]byte{9}, int(spoolSize)), 0o600); err != nil {
					return err
				}
				if err := os.Chtimes(path, time.Unix(0, was.Mtime), time.Unix(0, was.Mtime)); err != nil {
					return err
				}
				now = stateOf(t, path)
			}
			return nil
		},
		"a copy": func(was FileState) error {
			if err := os.WriteFile(path+".copy", bytes.Repeat([]byte{7}, int(spoolSize)), 0o600); err != nil {
				return err
			}
			if err := os.Chtimes(path+".copy", time.Unix(0, was.Mtime), time.Unix(0, was.Mtime)); err != nil {
				return err
			}
			return os.Rename(path+".copy", path)
		},
		"a short one, though sealed": func(FileState) error { return errors.Join(os.Truncate(path, 1<<19), reseal()) },
		"an old one, though sealed": func(FileState) error {
			long := time.Now().Add(-served - time.Minute)
			return errors.Join(os.Chtimes(path, long, long), reseal())
		},
		"one of tomorrow, though sealed": func(FileState) error {
			tomorrow := time.Now().Add(24 * time.Hour)
			return errors.Join(os.Chtimes(path, tomorrow, tomorrow), reseal())
		},
	} {
		put(t, s, seg)
		if err := spoil(stateOf(t, path)); err != nil {
			t.Fatal(err)
		}
		if take(t, s, seg) != 0 {
			t.Errorf("served: %s", what)
		}
		if s.Has(name) {
			t.Errorf("stays: %s", what)
		}
	}
	put(t, s, seg)
	if err := os.Remove(path + sealSuffix); err != nil { // as it is while another process puts it
		t.Fatal(err)
	}
	if s.Has(name) || take(t, s, seg) != 0 {
		t.Error("served without a seal")
	}
	if err := reseal(); err != nil {
		t.Fatal(err)
	}
	if take(t, s, seg) != 7 {
		t.Error("removed while it was put")
	}
}

// TestASpoolServesToAnotherFileSystem: there is nothing to rename then.
func TestASpoolServesToAnotherFileSystem(t *testing.T) {
	s, seg := openSpool(t, t.TempDir(), spoolOptions(t)), segmentOf(1, 7)
	put(t, s, seg)
	other, err := os.MkdirTemp("/dev/shm", "pgtrove-test-") // where there is none, it is the same one
	if errors.Is(err, fs.ErrNotExist) {
		other, err = os.MkdirTemp("", "pgtrove-test-")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	to := filepath.Join(other, "RECOVERYXLOG")
	if taken, err := s.Take(seg.Name(spoolSize), to); !taken || err != nil {
		t.Fatal(taken, err)
	}
	if b, err := os.ReadFile(to); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{7}, int(spoolSize))) {
		t.Errorf("other content, or %v", err)
	}
	if s.Has(seg.Name(spoolSize)) {
		t.Error("it stays")
	}
}

func TestWhatRecoveryWillNotAskForIsRemoved(t *testing.T) {
	s := openSpool(t, t.TempDir(), spoolOptions(t))
	if s.Wanted() != nil {
		t.Error("wanted before anybody asked")
	}
	put(t, s, segmentOf(1, 6), segmentOf(1, 7), segmentOf(1, 8), segmentOf(1, 12), segmentOf(1, 13), segmentOf(2, 8))
	left := filepath.Join(s.dir, tempPrefix+"left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	release, ok := s.Lead()
	if !ok || !s.Led() {
		t.Fatal("nobody leads, and I cannot")
	}
	if _, ok := s.Lead(); ok {
		t.Error("two lead")
	}
	if err := s.Ask(segmentOf(1, 7)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Error("what is being written was removed")
	}
	var has []uint64
	for n := range uint64(20) {
		if s.Has(segmentOf(1, n).Name(spoolSize)) {
			has = append(has, n)
		}
	}
	if !slices.Equal(has, []uint64{8, 12}) || s.Has(segmentOf(2, 8).Name(spoolSize)) {
		t.Errorf("left are %v", has)
	}
	if w := s.Wanted(); len(w) != 5 || w[0] != segmentOf(1, 8) || w[4] != segmentOf(1, 12) {
		t.Errorf("wanted are %v", w)
	}
	if !s.Low() {
		t.Error("one of five is not low")
	}
	put(t, s, segmentOf(1, 9), segmentOf(1, 10))
	if s.Low() {
		t.Error("three of five is low")
	}
	release()
	if s.Led() {
		t.Error("led by nobody")
	}
	// The timeline that recovery goes over to.
	if err := s.Ask(segmentOf(2, 8)); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(s.dir)
	if err != nil || len(files) != 1 || files[0].Name() != askedName {
		t.Errorf("left are %v, %v", files, err)
	}
}

func TestLargeSegmentsAreFewButSome(t *testing.T) {
	o := spoolOptions(t)
	o.SegmentSize, o.Bytes = pg.MaxSegmentSize, 128<<20
	s := openSpool(t, t.TempDir(), o)
	if err := s.Ask(segmentOf(1, 1)); err != nil {
		t.Fatal(err)
	}
	if n := len(s.Wanted()); n != 3 {
		t.Errorf("%d segments", n)
	}
}

func TestWhoFetchesASegmentIsWaitedFor(t *testing.T) {
	s := openSpool(t, t.TempDir(), spoolOptions(t))
	const name = segment
	if err := s.Wait(t.Context(), name); err != nil {
		t.Error(err)
	}
	release, ok := s.Claim(name)
	if !ok {
		t.Fatal("not to be claimed")
	}
	if _, ok := s.Claim(name); ok {
		t.Error("claimed twice")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited to %v", err)
	}
	waited := make(chan error)
	go func() { waited <- s.Wait(t.Context(), name) }()
	release()
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

// TestWhoStandsStillIsNotWaitedFor: a process that was stopped keeps its locks, and gives their files no new times.
func TestWhoStandsStillIsNotWaitedFor(t *testing.T) {
	s := openSpool(t, t.TempDir(), spoolOptions(t))
	release, ok := s.Claim(segment)
	if !ok {
		t.Fatal("not to be claimed")
	}
	path := s.path(segment + claimSuffix)
	look := func() fs.FileInfo {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := look()
	for deadline := time.Now().Add(time.Minute); look().ModTime().Equal(first.ModTime()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a process that runs gives its claim no new time")
		}
	}
	now := time.Now()
	later := look()
	var w watch
	for _, step := range []struct {
		f     fs.FileInfo
		after time.Duration
		want  bool
	}{
		{first, 0, false}, {first, standsStill - 1, false}, {later, standsStill, false}, {later, 2*standsStill - 1, false}, {later, 2 * standsStill, true},
	} {
		if got := w.still(step.f, now.Add(step.after)); got != step.want {
			t.Errorf("after %s: %v", step.after, got)
		}
	}
	release()
}
