package walarchive

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

func TestOneListingShowsWhatAllArchivesHold(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 9)
	pushSegments(t, a, 2, 5, 6)
	pushHistory(t, a, 2, fmt.Sprintf("1\t%s\tx\n", at(5, 100)))
	b := Archive{Objects: m, Cluster: "other", System: 7}
	// Files that do not know how long segments are come first.
	push(t, b, segmentName(1, 2)+".00000028.backup", []byte("x"), Facts{})
	pushSegments(t, b, 1, 3, 4)
	onlyHistory := Archive{Objects: m, Cluster: "other", System: 8}
	pushHistory(t, onlyHistory, 3, fmt.Sprintf("1\t%s\tx\n", at(5, 100)))
	m.files["wal/other/7/00000001/notes"] = memFile{}
	m.files["walnut"] = memFile{}
	empty := Archive{Objects: m, Cluster: "more", System: 9}

	for _, told := range []bool{false, true} {
		s := NewSurvey(m)
		s.Expect(empty, testSize)
		if told {
			s.Expect(a, testSize)
			s.Expect(b, testSize)
		}
		m.gets = 0
		for _, key := range slices.Sorted(maps.Keys(m.files)) {
			if err := s.Add(t.Context(), key, 100); err != nil {
				t.Fatal(err)
			}
		}
		if asked := map[bool]int{true: 0, false: 3}[told]; m.gets != asked {
			t.Errorf("%d headers were read, and not %d", m.gets, asked)
		}
		got, err := s.Coverages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range got {
			names = append(names, fmt.Sprint(c.Cluster, " ", c.System, " ", c.Files))
		}
		if want := []string{"main 7300000000000000001 12", "more 9 0", "other 7 3", "other 8 1"}; !slices.Equal(names, want) {
			t.Errorf("%v, want %v", names, want)
		}
		for _, one := range []Archive{a, b} {
			i := slices.IndexFunc(got, func(c *Coverage) bool { return c.Cluster == one.Cluster && c.System == one.System })
			if !reflect.DeepEqual(got[i].timelines[1], scan(t, one).timelines[1]) || got[i].SegmentSize != testSize {
				t.Errorf("of cluster %s: %+v", one.Cluster, got[i])
			}
		}
		if _, known := got[0].History(2); !known || got[3].SegmentSize != pg.DefaultSegmentSize {
			t.Errorf("%+v %+v", got[0], got[3])
		}
	}
}

func TestASurveyGivesUpAskingHowLongSegmentsAre(t *testing.T) {
	a, m := newArchive()
	for n := range uint64(20) {
		push(t, a, segmentName(1, n)+".00000028.backup", []byte("x"), Facts{})
	}
	s := NewSurvey(m)
	for _, key := range slices.Sorted(maps.Keys(m.files)) {
		if err := s.Add(t.Context(), key, 100); err != nil {
			t.Fatal(err)
		}
	}
	if m.gets != headersAsked {
		t.Errorf("%d headers were read", m.gets)
	}
	if err := NewSurvey(silent{m}).Add(t.Context(), a.Key(Name{Segment, 1, segmentName(1, 1)}), 1); !errors.Is(err, errDown) {
		t.Errorf("a storage that does not answer: %v", err)
	}
}

// TestKeysReadInARowAreReadAsEachAlone: what the reader remembers of a key must not change what it says of the next.
func TestKeysReadInARowAreReadAsEachAlone(t *testing.T) {
	a, _ := newArchive()
	b := a
	b.Cluster = "mainly"
	dir := a.prefix() + "00000001/"
	keys := []string{
		dir + segmentName(1, 1), dir + segmentName(1, 2) + ".partial", dir + segmentName(2, 2), dir + "00000001.history", dir + "x", dir, dir + segmentName(1, 3),
		a.prefix() + "00000002.history", a.prefix() + segmentName(1, 3), b.Key(Name{Segment, 1, segmentName(1, 1)}), dir + "a/" + segmentName(1, 1), "wal/x", "", "packs/1",
	}
	var r keyReader
	for _, first := range keys {
		for _, second := range keys {
			r.read(first)
			p, n, ok := r.read(second)
			cluster, system, want, err := ParseKey(second)
			if ok != (err == nil) || ok && (n != want || p != place{lineage{cluster, system}, want.Timeline}) {
				t.Errorf("%q after %q: %v %v %v", second, first, p, n, ok)
			}
		}
	}
	r.read(keys[0])
	if allocs := testing.AllocsPerRun(100, func() { r.read(keys[1]) }); allocs > 0 {
		t.Errorf("%v allocations for each key", allocs)
	}
}
