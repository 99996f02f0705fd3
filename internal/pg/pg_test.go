package pg_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
)

func TestLSNReadsAndWritesWhatTheServerPrints(t *testing.T) {
	for text, want := range map[string]pg.LSN{"0/0": 0, "0/16B3748": 0x16B3748, "1A/0": 0x1A00000000, "FFFFFFFF/FFFFFFFF": pg.MaxLSN, "1/2": 0x100000002} {
		if got, err := pg.ParseLSN(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	if got, err := pg.ParseLSN("0/016b3748"); err != nil || got != 0x16B3748 {
		t.Errorf("leading zero, lower case: %s, %v", got, err)
	}
	for _, text := range []string{"", "/", "0", "0/", "/0", "0/123456789", "g/0", "0/0/0", "+1/0", "0x1/0", " 0/0", "0/0\n", "-1/0"} {
		if got, err := pg.ParseLSN(text); !errors.Is(err, pg.ErrSyntax) || got != 0 {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func TestScalarsInJSON(t *testing.T) {
	type all struct {
		L pg.LSN
		T pg.Timeline
		S pg.SystemID
		Z pg.SegmentSize
	}
	in := all{0x100000002, 10, 18446744073709551615, 16 << 20}
	b, err := json.Marshal(in)
	if want := `{"L":"1/2","T":10,"S":"18446744073709551615","Z":16777216}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
	var out all
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
	for _, bad := range []string{`{"L":"x"}`, `{"S":"-1"}`, `{"S":"18446744073709551616"}`} {
		if err := json.Unmarshal([]byte(bad), &out); !errors.Is(err, pg.ErrSyntax) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestSegmentNames(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		tli  pg.Timeline
		lsn  pg.LSN
		size pg.SegmentSize
		name string
	}{
		{1, 0x16B3748, 16 * mib, "000000010000000000000001"},
		{0x1F, 0xFF000000, 16 * mib, "0000001F00000000000000FF"},
		{1, 0x100000000, 16 * mib, "000000010000000100000000"},
		{1, 0x1FFFFFFFF, mib, "000000010000000100000FFF"},
		{2, 0x2C0000001, 1024 * mib, "000000020000000200000003"},
		{0xFFFFFFFF, pg.MaxLSN, 16 * mib, "FFFFFFFFFFFFFFFF000000FF"},
	} {
		s := pg.SegmentOf(c.tli, c.lsn, c.size)
		if got := s.Name(c.size); got != c.name {
			t.Errorf("%s with %d: %s, want %s", c.lsn, c.size, got, c.name)
		}
		back, err := pg.ParseSegment(c.name, c.size)
		if err != nil || back != s {
			t.Errorf("%s: %+v, %v", c.name, back, err)
		}
		if start := s.Start(c.size); start > c.lsn || c.lsn-start >= pg.LSN(c.size) || s.End(c.size) != start+pg.LSN(c.size) {
			t.Errorf("%s starts at %s", c.name, start)
		}
	}
	if got, err := pg.ParseSegment("000000010000000000000100", 16*mib); err == nil {
		t.Errorf("number 0x100 of 16 MiB segments: %+v", got)
	}
	if got := (pg.Segment{Timeline: 1, Number: 255}).Next().Name(16 * mib); got != "000000010000000100000000" {
		t.Error(got)
	}
}

func TestStopPositionOnABoundaryMeansTheSegmentBefore(t *testing.T) {
	size := pg.DefaultSegmentSize
	for lsn, want := range map[pg.LSN]uint64{0x2000000: 1, 0x2000001: 2, 0x1FFFFFF: 1} {
		if got := pg.SegmentBefore(1, lsn, size); got.Number != want || got.Timeline != 1 {
			t.Errorf("%s: %+v", lsn, got)
		}
	}
}

func TestSegmentSizes(t *testing.T) {
	for size := range uint64(33) {
		if got, want := pg.SegmentSize(1<<size&0xFFFFFFFF).Valid(), size >= 20 && size <= 30; got != want {
			t.Errorf("2^%d: %v", size, got)
		}
	}
	if pg.SegmentSize(3<<20).Valid() || pg.SegmentSize(16<<20+1).Valid() {
		t.Error("no power of two")
	}
}

func TestWALFilesAreClassifiedByName(t *testing.T) {
	for name, want := range map[string]pg.FileKind{
		"000000010000000000000001":                 pg.KindSegment,
		"FFFFFFFF00000000000000FF":                 pg.KindSegment,
		"000000010000000000000001.partial":         pg.KindPartial,
		"000000010000000000000001.00000028.backup": pg.KindBackup,
		"0000000A.history":                         pg.KindHistory,
	} {
		kind, err := pg.ClassifyWALFile(name)
		if err != nil || kind != want {
			t.Errorf("%s: %s, %v", name, kind, err)
		}
		if tli, err := pg.WALFileTimeline(name); err != nil || tli.String() != name[:8] {
			t.Errorf("%s: timeline %s, %v", name, tli, err)
		}
		seg, err := pg.WALFileSegment(name, pg.DefaultSegmentSize)
		if want == pg.KindHistory && !errors.Is(err, pg.ErrSyntax) || want != pg.KindHistory && (err != nil || seg.Name(pg.DefaultSegmentSize) != name[:24]) {
			t.Errorf("%s: segment %+v, %v", name, seg, err)
		}
	}
	for _, name := range []string{
		"", "00000001", "00000001.History", "0000000a.history", "00000000.history", "1.history",
		"00000001000000000000000", "0000000100000000000000011", "00000001000000000000000g", "00000001000000000000000a",
		"000000000000000000000001", "000000010000000000000001.part", "000000010000000000000001.partial.gz", "000000010000000000000001.",
		"000000010000000000000001.0000028.backup", "000000010000000000000001.000000028.backup", "000000010000000000000001.backup",
		"000000010000000000000001.00000028.backup~", "RECOVERYXLOG", "../000000010000000000000001", "xlogtemp.1234", "000000010000000000000001.00000028x.backup",
	} {
		if kind, err := pg.ClassifyWALFile(name); !errors.Is(err, pg.ErrSyntax) || kind != pg.KindInvalid {
			t.Errorf("%q: %s, %v", name, kind, err)
		}
	}
}

const history4 = "# a comment\n\n1\t0/3000000\tno recovery target specified\n\n2\t0/5000060\tbefore 2026-11-21 00:00:00+00\n3\t0/5000060\t\n"

func TestHistoryKnowsWhichWALIsItsOwn(t *testing.T) {
	h, err := pg.ParseHistory(5, []byte(history4))
	if err != nil || len(h) != 4 || h.Timeline() != 5 || h[1].Reason != "before 2026-11-21 00:00:00+00" {
		t.Fatalf("%+v, %v", h, err)
	}
	for _, c := range []struct {
		tli           pg.Timeline
		lsn           pg.LSN
		contains, end bool
	}{
		{1, 0, true, false}, {1, 1, true, true}, {1, 0x2FFFFFF, true, true}, {1, 0x3000000, false, true}, {1, 0x3000001, false, false},
		{2, 0x2FFFFFF, false, false}, {2, 0x3000000, true, false}, {2, 0x500005F, true, true}, {2, 0x5000060, false, true},
		{3, 0x5000060, false, false}, {3, 0x500005F, false, false}, // forked off and left at the same place: nothing of it counts
		{4, 0x5000060, false, false}, {5, 0x500005F, false, false}, {5, 0x5000060, true, false}, {5, 1 << 40, true, true}, {6, 1 << 40, false, false},
	} {
		if got := h.Contains(c.tli, c.lsn); got != c.contains {
			t.Errorf("contains %d %s: %v", c.tli, c.lsn, got)
		}
		if got := h.ContainsEnd(c.tli, c.lsn); got != c.end {
			t.Errorf("contains the end %d %s: %v", c.tli, c.lsn, got)
		}
		if got := h.TimelineAt(c.lsn) == c.tli; got != c.contains {
			t.Errorf("timeline at %s: %d", c.lsn, h.TimelineAt(c.lsn))
		}
	}
	for tli, want := range map[pg.Timeline]pg.LSN{1: 0x3000000, 2: 0x5000060, 3: 0x5000060} {
		if got, ok := h.SwitchPoint(tli); !ok || got != want {
			t.Errorf("leaves %d at %s, %v", tli, got, ok)
		}
	}
	for _, tli := range []pg.Timeline{4, 5} {
		if got, ok := h.SwitchPoint(tli); ok {
			t.Errorf("leaves %d at %s", tli, got)
		}
	}
	one := pg.NewHistory(1)
	if !one.Contains(1, 0) || !one.Contains(1, 1<<50) || one.Contains(2, 1) || one.Timeline() != 1 {
		t.Errorf("%+v", one)
	}
}

func TestHistoryRefusesWhatPostgreSQLRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"1\t0/0\tx\nfoo\n":          "line 2",
		"1":                         "line 1",
		"1\tx":                      "line 1",
		"1 0/0 a\n1 0/0 b\n":        "1 after 1",
		"2\t0/0\t\n1\t0/0\t\n":      "1 after 2",
		"5\t0/0\t":                  "no ancestor",
		"0\t0/0\t":                  "line 1",
		"4294967296\t0/0\t":         "line 1",
		"\x00":                      "line 1",
		strings.Repeat("x", 100000): "...",
	} {
		if h, err := pg.ParseHistory(5, []byte(text)); !errors.Is(err, pg.ErrHistory) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: %+v, %v", text, h, err)
		}
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(5), []byte(history4))
	f.Add(uint32(2), []byte("1\t0/3000000\tno recovery target specified\n"))
	f.Fuzz(func(t *testing.T, tli uint32, data []byte) {
		h, err := pg.ParseHistory(pg.Timeline(tli), data)
		if err != nil {
			if !errors.Is(err, pg.ErrHistory) {
				t.Errorf("%v", err)
			}
			return
		}
		if h.Timeline() != pg.Timeline(tli) || !h.Contains(pg.Timeline(tli), pg.MaxLSN-1) && h[max(0, len(h)-2)].LSN != pg.MaxLSN {
			t.Errorf("%+v", h)
		}
	})
}
