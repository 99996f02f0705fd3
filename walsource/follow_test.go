package walsource_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walsource"
)

// TestFollowingASegmentEndsInWhatValidateSays receives segments in pieces of several sizes.
func TestFollowingASegmentEndsInWhatValidateSays(t *testing.T) {
	for _, g := range goldens() {
		whole := g.data(t)
		want, err := walsource.Validate(g.name, whole, g.expect())
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 7, 24, 40, 8192, 8193, 70000, len(whole)} {
			data := make([]byte, len(whole))
			f := walsource.Follow(g.name, data, g.expect(), nil)
			var info *walsource.Info
			last := want.Segment.Start(1 << 20)
			for at := 0; at < len(whole); at += piece {
				to := min(at+piece, len(whole))
				copy(data[at:to], whole[at:to])
				if info, err = f.Extend(to); err != nil {
					t.Fatalf("%s: %v after %d bytes in pieces of %d", g.name, err, to, piece)
				}
				if info == nil {
					continue
				}
				if end := info.EndOfData; end < last || end > want.Segment.Start(1<<20)+pg.LSN(to) {
					t.Fatalf("%s: of %d bytes records are read up to %s, after %s", g.name, to, end, last)
				}
				last = info.EndOfData
			}
			if !reflect.DeepEqual(info, want) {
				t.Errorf("%s in pieces of %d: %+v, want %+v", g.name, piece, info, want)
			}
		}
	}
}

func TestFollowerReadsWhatWasReceived(t *testing.T) {
	g := goldens()[0]
	whole := g.data(t)
	used := int(g.end) % len(whole)
	data := make([]byte, len(whole))
	copy(data, whole[:used-1])
	f := walsource.Follow(g.name, data, g.expect(), nil)
	info, err := f.Extend(used - 1)
	if err != nil || info.EndOfData >= g.end || info.EndOfData < g.end-100 || info.Commits == 0 || info.Switched {
		t.Errorf("without the last byte: %+v, %v", info, err)
	}
	if _, err := f.Extend(len(data)); !errors.Is(err, walsource.ErrUnfinished) {
		t.Errorf("a segment that is not filled to its end: %v", err)
	}
}

func TestFollowerRefusesWhatIsNotItsSegment(t *testing.T) {
	g := goldens()[0]
	expect := g.expect()
	expect.SystemID++
	f := walsource.Follow(g.name, g.data(t), expect, nil)
	if info, err := f.Extend(39); info != nil || err != nil {
		t.Errorf("before the first header: %+v, %v", info, err)
	}
	if _, err := f.Extend(40); !errors.Is(err, walsource.ErrForeign) {
		t.Errorf("WAL of another cluster: %v", err)
	}
	if _, err := walsource.Follow("0000000100000000000000FF", g.data(t), g.expect(), nil).Extend(8192); !errors.Is(err, walsource.ErrMisnamed) {
		t.Errorf("another segment: %v", err)
	}
}

// TestFollowerReadsRecordsOverSegments follows a row of segments, which Validate reads one by one.
func TestFollowerReadsRecordsOverSegments(t *testing.T) {
	s := startArchiving(t, "15", 1, nil)
	s.Pgbench(t, "-i", "-q", "-s", "1")
	s.flush(t)
	var before []byte
	crossing := 0
	for _, want := range s.segments(t) {
		name := want.Segment.Name(1 << 20)
		whole := s.read(t, name).Data
		data := make([]byte, len(whole))
		f := walsource.Follow(name, data, walsource.Expect{}, before)
		var info *walsource.Info
		for at := 0; at < len(whole); at += 10000 {
			to := min(at+10000, len(whole))
			copy(data[at:to], whole[at:to])
			var err error
			if info, err = f.Extend(to); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(info, want) {
			t.Errorf("%s: %+v, want %+v", name, info, want)
		}
		if alone, _ := walsource.Validate(name, whole, walsource.Expect{}); alone.HeadUnread && !info.HeadUnread {
			crossing++
		}
		before = data
	}
	if crossing == 0 {
		t.Error("no record ran from one segment into the next: the test needs more WAL")
	}
}
