package walarchive

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func content(b byte) []byte { return bytes.Repeat([]byte{b}, int(testSize)) }

func TestPushTheSameAgainSucceedsAndOtherContentNeverReplacesIt(t *testing.T) {
	a, _ := newArchive()
	file := segmentName(1, 7)
	for i, wantSame := range []bool{false, true} {
		same, err := a.Push(t.Context(), file, content(1), segmentFacts(1, 7))
		if err != nil || same != wantSame {
			t.Fatalf("push %d: same %v, error %v", i, same, err)
		}
	}
	_, err := a.Push(t.Context(), file, content(2), segmentFacts(1, 7))
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "split brain") || !strings.Contains(err.Error(), file) {
		t.Fatalf("push of other content: %v", err)
	}
	h, got, err := a.Fetch(t.Context(), file)
	if err != nil || !bytes.Equal(got, content(1)) {
		t.Fatalf("fetch after the conflict: %v", err)
	}
	if h.Name != file || h.SegmentSize != testSize || h.Timeline != 1 || h.System != testSystem {
		t.Errorf("header %+v", h)
	}
}

func TestEveryKindOfFileIsServedUnderItsOwnNameOnly(t *testing.T) {
	a, _ := newArchive()
	segment := segmentName(2, 9)
	files := map[string][]byte{
		segment + ".partial":         content(3),
		segment + ".00000028.backup": []byte("START WAL LOCATION: ...\n"),
		"00000002.history":           []byte("1\t0/900000\tno recovery target specified\n"),
	}
	for file, c := range files {
		f := Facts{}
		if strings.HasSuffix(file, ".partial") {
			f = segmentFacts(2, 9)
		}
		push(t, a, file, c, f)
	}
	for file, c := range files {
		if _, got, err := a.Fetch(t.Context(), file); err != nil || !bytes.Equal(got, c) {
			t.Errorf("fetch %s: %v", file, err)
		}
	}
	if _, _, err := a.Fetch(t.Context(), segment); !errors.Is(err, ErrNotExist) {
		t.Errorf("the full segment, of which only a .partial is there: %v", err)
	}
}

func TestProbeForAHistoryThatIsNotThereIsOneGet(t *testing.T) {
	a, m := newArchive()
	if _, _, err := a.Fetch(t.Context(), "00000002.history"); !errors.Is(err, ErrNotExist) {
		t.Fatal(err)
	}
	if m.gets != 1 || m.lists != 0 {
		t.Errorf("%d gets and %d listings", m.gets, m.lists)
	}
}

func TestAnObjectInAnothersPlaceIsDamage(t *testing.T) {
	a, m := newArchive()
	push(t, a, segmentName(1, 1), content(1), segmentFacts(1, 1))
	push(t, a, segmentName(1, 2), content(2), segmentFacts(1, 2))
	other := a
	other.Cluster = "other"
	push(t, other, segmentName(1, 3), content(3), segmentFacts(1, 3))
	foreign := a
	foreign.System++
	push(t, foreign, segmentName(1, 4), content(4), segmentFacts(1, 4))

	key := func(a Archive, n uint64) string { return a.Key(Name{Segment, 1, segmentName(1, n)}) }
	m.files[key(a, 1)] = m.files[key(a, 2)]
	m.files[key(a, 3)] = m.files[key(other, 3)]
	m.files[key(a, 4)] = m.files[key(foreign, 4)]
	short := m.files[key(a, 2)]
	short.content = short.content[:len(short.content)-1]
	m.files[key(a, 2)] = short
	for n := uint64(1); n <= 4; n++ {
		if _, c, err := a.Fetch(t.Context(), segmentName(1, n)); !errors.Is(err, ErrDamaged) || c != nil {
			t.Errorf("fetch of segment %d: %v", n, err)
		}
		if _, err := a.Header(t.Context(), segmentName(1, n)); !errors.Is(err, ErrDamaged) {
			t.Errorf("header of segment %d: %v", n, err)
		}
	}
}

func TestAHistoryWhoseHeaderSaysSomethingElseIsDamage(t *testing.T) {
	a, m := newArchive()
	pushHistory(t, a, 2, "1\t0/900000\tx\n")
	k := a.Key(Name{History, 2, "00000002.history"})
	f := m.files[k]
	f.content = []byte("1\t0/A00000\tx\n")
	m.files[k] = f
	if _, _, err := a.Fetch(t.Context(), "00000002.history"); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}

func TestPushRefusesWhatCannotBeTheFile(t *testing.T) {
	a, m := newArchive()
	for name, c := range map[string]struct {
		file    string
		content []byte
		facts   Facts
	}{
		"truncated":          {segmentName(1, 1), content(1)[1:], segmentFacts(1, 1)},
		"empty":              {segmentName(1, 1), nil, segmentFacts(1, 1)},
		"no name":            {"000000010000000000000001.tmp", content(1), segmentFacts(1, 1)},
		"path":               {"../000000010000000000000001", content(1), segmentFacts(1, 1)},
		"no segment size":    {segmentName(1, 1), nil, Facts{}},
		"no history":         {"00000002.history", []byte("hello"), Facts{}},
		"empty history":      {"00000002.history", nil, Facts{}},
		"ends elsewhere":     {segmentName(1, 1), content(1), segmentFacts(1, 9)},
		"name of other size": {"0000000100000000FFFFFFFF", content(1), segmentFacts(1, 1)},
	} {
		if _, err := a.Push(t.Context(), c.file, c.content, c.facts); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(m.files) != 0 {
		t.Errorf("%d files were stored", len(m.files))
	}
}

func TestRestorePointsWithoutRoomDoNotKeepASegmentOut(t *testing.T) {
	a, _ := newArchive()
	f := segmentFacts(1, 1)
	f.RestorePoints = append(f.RestorePoints, RestorePoint{LSN: 1}, RestorePoint{Name: strings.Repeat("x", 64)})
	for range maxRestorePoints {
		f.RestorePoints = append(f.RestorePoints, RestorePoint{Name: "often", LSN: at(1, 100)})
	}
	f.RestorePoints = append(f.RestorePoints, RestorePoint{Name: "last", LSN: at(1, 200)})
	push(t, a, segmentName(1, 1), content(1), f)
	h, err := a.Header(t.Context(), segmentName(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(h.RestorePoints); n != maxRestorePoints || h.RestorePoints[n-1].Name != "last" || !h.Unsure {
		t.Errorf("%d restore points, unsure %v", n, h.Unsure)
	}
}

func TestKeysReadBack(t *testing.T) {
	a, _ := newArchive()
	for file, want := range map[string]string{
		segmentName(1, 1):                          "wal/main/7300000000000000001/00000001/000000010000000000000001",
		"0000000A0000000100000002.partial":         "wal/main/7300000000000000001/0000000A/0000000A0000000100000002.partial",
		"0000000A0000000100000002.00000028.backup": "wal/main/7300000000000000001/0000000A/0000000A0000000100000002.00000028.backup",
		"0000000B.history":                         "wal/main/7300000000000000001/0000000B.history",
	} {
		n, err := ParseName(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Key(n); got != want {
			t.Errorf("key of %s is %s", file, got)
		}
		cluster, system, back, err := ParseKey(want)
		if err != nil || cluster != "main" || system != testSystem || back != n {
			t.Errorf("%s reads as %s %s %+v, %v", want, cluster, system, back, err)
		}
	}
	for _, key := range []string{
		"", "wal/main/1", "wal//1/00000002.history", "wal/main/x/00000002.history", "wal/main/01/00000002.history",
		"wal/main/1/00000001/00000002.history", "wal/main/1/00000002/000000010000000000000001",
		"wal/main/1/000000010000000000000001", "packs/main/1/00000002.history",
	} {
		if _, _, _, err := ParseKey(key); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

func TestVerifyReportsDamageAndGoesOn(t *testing.T) {
	a, m := newArchive()
	pushSegments(t, a, 1, 1, 5)
	pushHistory(t, a, 2, "1\t0/300000\tx\n")
	m.damaged = a.Key(Name{Segment, 1, segmentName(1, 2)})
	m.files[a.prefix()+"00000001/stray"] = memFile{}
	bad := make(chan string, 10)
	var read int64
	err := a.Verify(t.Context(), Check{Damaged: func(key string, _ error) { bad <- key }, Progress: func(n int64) { read += n }})
	if err != nil {
		t.Fatal(err)
	}
	close(bad)
	got := map[string]bool{}
	for k := range bad {
		got[k] = true
	}
	if len(got) != 2 || !got[m.damaged] || !got[a.prefix()+"00000001/stray"] {
		t.Errorf("damaged: %v", got)
	}
	if read != 7*100 {
		t.Errorf("progress of %d bytes", read)
	}
}
