package walarchive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// reads expects that segment 3 is put together up to reach, from stream(seed), with zeros behind.
func reads(t *testing.T, a Archive, reach int64, seed byte, wantDamaged ...string) {
	t.Helper()
	var damaged []string
	h, got, err := a.FetchParts(t.Context(), segmentName(1, 3), func(file string, err error) {
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", file, err)
		}
		damaged = append(damaged, file)
	})
	if err != nil {
		t.Errorf("to %#x: %v", reach, err)
		return
	}
	want := stream(seed)
	clear(want[reach:])
	if !bytes.Equal(got, want) || h.End != at(3, uint64(reach)) {
		t.Errorf("other bytes than those up to %#x, or a header of %s", reach, h.End)
	}
	if !slices.Equal(damaged, wantDamaged) {
		t.Errorf("damaged: %v, want %v", damaged, wantDamaged)
	}
}

func partKey(a Archive, p Part) string {
	n, _ := ParseName(partName{p.Segment, p.From, p.To, p.Receiver}.file())
	return a.Key(n)
}

func TestASegmentIsPutTogetherFromItsParts(t *testing.T) {
	for name, c := range map[string]struct {
		parts [][3]int64 // receiver, from, to
		reach int64      // 0: there is nothing
		reads int        // objects, at most
	}{
		"none":                             {},
		"one":                              {parts: [][3]int64{{1, 0, 100}}, reach: 100, reads: 1},
		"a row":                            {parts: [][3]int64{{1, 0, 100}, {1, 100, 300}, {1, 300, 301}}, reach: 301, reads: 3},
		"one that grew":                    {parts: [][3]int64{{1, 0, 100}, {1, 0, 200}, {1, 0, 300}, {1, 300, 400}, {1, 300, 500}}, reach: 500, reads: 2},
		"overlaps":                         {parts: [][3]int64{{1, 0, 100}, {1, 50, 200}, {1, 90, 220}, {1, 150, 400}}, reach: 400, reads: 4},
		"not from the beginning":           {parts: [][3]int64{{1, 1, 100}}},
		"a gap":                            {parts: [][3]int64{{1, 0, 100}, {1, 101, 300}}, reach: 100, reads: 1},
		"the whole segment":                {parts: [][3]int64{{1, 0, 5}, {1, 0, int64(testSize)}}, reach: int64(testSize), reads: 1},
		"the receiver that came farthest":  {parts: [][3]int64{{1, 0, 100}, {1, 100, 300}, {2, 0, 500}, {3, 0, 20}}, reach: 500, reads: 4},
		"receivers do not fill each other": {parts: [][3]int64{{1, 0, 100}, {2, 100, 300}}, reach: 100, reads: 1},
	} {
		a, m := newArchive()
		for _, p := range c.parts {
			pushPart(t, a, partOf(3, int(p[0]), p[1], p[2], 7))
		}
		pushPart(t, a, partOf(4, 1, 0, 9000, 8)) // another segment's
		m.gets, m.lists = 0, 0
		t.Run(name, func(t *testing.T) {
			if c.reach > 0 {
				reads(t, a, c.reach, 7)
			} else if _, _, err := a.FetchParts(t.Context(), segmentName(1, 3), nil); !errors.Is(err, ErrNotExist) {
				t.Error(err)
			}
			if m.gets > c.reads || m.lists != 1 {
				t.Errorf("%d objects read, %d listings", m.gets, m.lists)
			}
		})
	}
	a, _ := newArchive()
	for _, file := range []string{"00000002.history", segmentName(1, 3) + ".partial", "x"} {
		if _, _, err := a.FetchParts(t.Context(), file, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// Whatever a receiver has stored, in whatever order: what is read is what it has got from the first byte on without a gap.
func TestTheCoverReachesAsFarAsThePartsDo(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var parts []partName
		there := make([]bool, 60)
		for range rnd.IntN(12) {
			from := rnd.Int64N(59)
			to := from + 1 + rnd.Int64N(min(20, 60-from))
			parts = append(parts, partName{From: from, To: to})
			for i := from; i < to; i++ {
				there[i] = true
			}
		}
		c, end := coverOf(parts), int64(0)
		for _, p := range c {
			if p.From > end || p.To <= end || !slices.Contains(parts, p) {
				t.Fatalf("seed %d: %v of %v", seed, c, parts)
			}
			end = p.To
		}
		// A part that begins right behind another continues it, so what is there in a row is all covered.
		if want := slices.Index(append(there, false), false); end != int64(want) {
			t.Fatalf("seed %d: %v of %v reaches %d, not %d", seed, c, parts, end, want)
		}
	}
}

func TestADamagedPartCountsAsAbsentAndIsTold(t *testing.T) {
	a, m := newArchive()
	row := []Part{partOf(3, 1, 0, 100, 7), partOf(3, 1, 100, 200, 7), partOf(3, 1, 100, 300, 7), partOf(3, 2, 0, 150, 7)}
	for _, p := range row {
		pushPart(t, a, p)
	}
	file := func(i int) string { return strings.TrimPrefix(partKey(a, row[i]), a.prefix()+"00000001/") }
	reads(t, a, 300, 7)
	m.damaged = partKey(a, row[2])
	reads(t, a, 200, 7, file(2)) // by the shorter one
	m.damaged = partKey(a, row[0])
	reads(t, a, 150, 7, file(0)) // by the other receiver
	m.damaged = partKey(a, row[3])
	reads(t, a, 300, 7, file(3)) // which the other one does without

	// One object in another's place is damage too.
	m.damaged = ""
	m.files[partKey(a, row[2])] = m.files[partKey(a, row[1])]
	reads(t, a, 200, 7, file(2))

	// Where nothing opens, it may be the key: that is not the end of an archive.
	a, m = newArchive()
	pushPart(t, a, row[0])
	m.damaged = partKey(a, row[0])
	if _, _, err := a.FetchParts(t.Context(), segmentName(1, 3), nil); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	a.Objects = failing{m}
	if _, _, err := a.FetchParts(t.Context(), segmentName(1, 3), nil); !errors.Is(err, errDown) {
		t.Error(err)
	}
}

// failing is a storage that lists, and cannot read.
type failing struct{ *memObjects }

func (failing) GetArchive(context.Context, string) ([]byte, []byte, error) {
	return nil, nil, fmt.Errorf("get: %w", errDown)
}

func TestReceiversThatDisagreeAreRefused(t *testing.T) {
	a, _ := newArchive()
	pushPart(t, a, partOf(3, 1, 0, 300, 7))
	pushPart(t, a, partOf(3, 2, 0, 100, 7))
	other := partOf(3, 2, 100, 200, 7)
	other.Content[99] ^= 1
	pushPart(t, a, other)
	_, _, err := a.FetchParts(t.Context(), segmentName(1, 3), nil)
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), receiver(1)) || !strings.Contains(err.Error(), receiver(2)) || !strings.Contains(err.Error(), "two servers") {
		t.Error(err)
	}
	// One server may have two receivers, and they may have different parts of the same.
	a, _ = newArchive()
	pushPart(t, a, partOf(3, 1, 0, 300, 7))
	pushPart(t, a, partOf(3, 2, 0, 100, 7))
	pushPart(t, a, partOf(3, 2, 50, 299, 7))
	reads(t, a, 300, 7)
	// Of two sizes of segments one is wrong.
	odd := partOf(3, 1, 300, 310, 7)
	odd.Facts.SegmentSize *= 2
	odd.Facts.End = 0
	pushPart(t, a, odd)
	if _, _, err := a.FetchParts(t.Context(), segmentName(1, 3), nil); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
}

// pruning removes the parts once they are listed; the segment is there by then, or was never needed.
type pruning struct {
	*memObjects
	keep int // parts that stay
	then func()
}

func (p pruning) List(ctx context.Context, prefix string, fn func(string, int64) error) error {
	if err := p.memObjects.List(ctx, prefix, fn); err != nil {
		return err
	}
	var parts []string
	for key := range p.files {
		if strings.Contains(key, partSuffix) {
			parts = append(parts, key)
		}
	}
	slices.Sort(parts)
	for _, key := range parts[p.keep:] {
		delete(p.files, key)
	}
	p.then()
	return nil
}

func TestPartsThatGoAwayMakeRoomForTheSegment(t *testing.T) {
	world := func(keep int, then func(Archive)) Archive {
		a, m := newArchive()
		pushPart(t, a, partOf(3, 1, 0, 100, 7))
		pushPart(t, a, partOf(3, 1, 100, 200, 7))
		plain := a
		a.Objects = pruning{m, keep, func() { then(plain) }}
		return a
	}
	came := func(a Archive) { push(t, a, segmentName(1, 3), stream(7), segmentFacts(1, 3)) }
	for keep := range 2 {
		a := world(keep, came)
		h, got, err := a.FetchParts(t.Context(), segmentName(1, 3), nil)
		if err != nil || h.Kind != Segment || !bytes.Equal(got, stream(7)) {
			t.Errorf("%d parts left: %v", keep, err)
		}
	}
	nothing := func(Archive) {}
	if _, _, err := world(0, nothing).FetchParts(t.Context(), segmentName(1, 3), nil); !errors.Is(err, ErrNotExist) {
		t.Error(err)
	}
	reads(t, world(1, nothing), 100, 7)
}
