package walarchive

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"
)

// receiver makes the ID of a receiver.
func receiver(n int) string { return fmt.Sprintf("20260501T12%02d00Z-%016x", n, n) }

// stream is a segment whose bytes differ by their place.
func stream(seed byte) []byte {
	b := make([]byte, testSize)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16) ^ seed
	}
	return b
}

// partOf is what receiver r made of segment n on timeline 1, whose bytes are stream(seed).
func partOf(n uint64, r int, from, to int64, seed byte) Part {
	return Part{
		Segment: segmentName(1, n), Receiver: receiver(r), From: from, To: to, Content: stream(seed)[from:to],
		Facts: Facts{SegmentSize: testSize, Major: 15, End: at(n, uint64(to)), FirstCommit: minute(n), LastCommit: minute(n).Add(time.Duration(to) * time.Microsecond)},
	}
}

func pushPart(t testing.TB, a Archive, p Part) {
	t.Helper()
	if err := a.PushPart(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func TestAPartIsStoredUnderItsSegmentsName(t *testing.T) {
	a, m := newArchive()
	p := partOf(3, 1, 0x2000, 0x4a00, 1)
	pushPart(t, a, p)
	pushPart(t, a, p) // again
	key := "wal/main/7300000000000000001/00000001/000000010000000000000003.part/00002000-00004a00-" + receiver(1)
	if len(m.files) != 1 || !bytes.Equal(m.files[key].content, p.Content) {
		t.Fatalf("%d objects", len(m.files))
	}
	cluster, system, n, err := ParseKey(key)
	if err != nil || cluster != "main" || system != testSystem || n.Kind != PartKind || n.Timeline != 1 || a.Key(n) != key {
		t.Errorf("%s %s %+v %v", cluster, system, n, err)
	}
	if h, err := a.Header(t.Context(), n.File); err != nil || h.LastCommit != p.Facts.LastCommit || h.End != p.Facts.End {
		t.Errorf("%+v, %v", h, err)
	}
	other := p
	other.Content = stream(2)[p.From:p.To]
	if err := a.PushPart(t.Context(), other); !errors.Is(err, ErrConflict) {
		t.Errorf("other bytes under the same name: %v", err)
	}
	// It is no file of PostgreSQL.
	if _, err := a.Push(t.Context(), n.File, p.Content, p.Facts); !errors.Is(err, ErrInvalid) {
		t.Errorf("pushed: %v", err)
	}
	if _, _, err := a.Fetch(t.Context(), n.File); !errors.Is(err, ErrInvalid) {
		t.Errorf("fetched: %v", err)
	}
}

func TestPartsThatNobodyReceivesAreRefused(t *testing.T) {
	a, m := newArchive()
	for what, change := range map[string]func(*Part){
		"fewer bytes than it says":   func(p *Part) { p.Content = p.Content[1:] },
		"no bytes":                   func(p *Part) { p.To, p.Content = p.From, nil },
		"beyond the segment's end":   func(p *Part) { p.From, p.To = int64(testSize)-1, int64(testSize)+int64(len(p.Content))-1 },
		"records behind its end":     func(p *Part) { p.Facts.End = at(3, uint64(p.To)+8) },
		"records of another":         func(p *Part) { p.Facts.End = at(2, 8) },
		"no size of segments":        func(p *Part) { p.Facts.SegmentSize = 0 },
		"no segment":                 func(p *Part) { p.Segment += ".partial" },
		"no receiver":                func(p *Part) { p.Receiver = "" },
		"a receiver of another form": func(p *Part) { p.Receiver = "20260501T120000Z-00000000000000AB" },
		"a receiver of no time":      func(p *Part) { p.Receiver = "20260541T120000Z-00000000000000ab" },
	} {
		p := partOf(3, 1, 0x2000, 0x4000, 1)
		change(&p)
		if err := a.PushPart(t.Context(), p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(m.files) > 0 {
		t.Error("something was stored")
	}
	for _, file := range []string{
		"000000010000000000000003.part/00002000-00004A00-" + receiver(1), "000000010000000000000003.part/2000-4a00-" + receiver(1),
		"000000010000000000000003.part/00002000-00002000-" + receiver(1), "000000010000000000000003.part/", "000000010000000000000003.part",
		"000000010000000000000003.part/00002000-00004000-" + receiver(1) + "/x", "000000010000000000000003.part/00002000-50000000-" + receiver(1),
		"000000000000000000000003.part/00002000-00004a00-" + receiver(1), "00000001.history.part/00002000-00004a00-" + receiver(1),
	} {
		if n, err := ParseName(file); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", file, n, err)
		}
	}
}

func TestReceiversAreAnnouncedOnce(t *testing.T) {
	a, m := newArchive()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	announce := func(at time.Time) bool {
		t.Helper()
		fresh, err := a.announceReceiver(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		return fresh
	}
	if there, err := a.Received(t.Context()); there || err != nil {
		t.Errorf("before: %v, %v", there, err)
	}
	if !announce(now) {
		t.Error("the first one is not new")
	}
	if there, err := a.Received(t.Context()); !there || err != nil || len(m.files) != 1 {
		t.Errorf("after: %v, %v", there, err)
	}
	if _, ok := m.files["wal/main/7300000000000000001/receive"]; !ok {
		t.Error("the note is elsewhere")
	}
	// One that was killed right behind it must not make its successor believe that readers know.
	if !announce(now.Add(time.Minute)) {
		t.Error("a minute later it is known")
	}
	if announce(now.Add(time.Hour)) || len(m.files) != 1 {
		t.Error("an hour later it is new")
	}
	if !announce(now.Add(-time.Hour)) {
		t.Error("by a clock that is behind it is known")
	}
	var damaged []string
	if err := a.Verify(t.Context(), Check{Damaged: func(key string, err error) { damaged = append(damaged, err.Error()) }}); err != nil || len(damaged) > 0 {
		t.Errorf("%v, %v", damaged, err)
	}
	if c := scan(t, a); len(c.Timelines()) > 0 {
		t.Errorf("timelines %v", c.Timelines())
	}
	m.damaged = "wal/main/7300000000000000001/receive"
	if there, err := a.Received(t.Context()); !there || err != nil {
		t.Errorf("a damaged note: %v, %v", there, err)
	}
	a.Objects = silent{a.Objects}
	if _, err := a.AnnounceReceiver(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("a storage that does not answer: %v", err)
	}
	if _, err := a.Received(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("a storage that does not answer: %v", err)
	}
}
