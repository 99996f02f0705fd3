package walsource_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walsource"
)

// golden is a segment that a server wrote: 50 rows, a restore point, a rollback, a record over two pages, a prepared transaction that
// drops a table, and pg_switch_wal.
type golden struct {
	version, name string
	id            pg.SystemID
	minXID        uint32
	point, end    pg.LSN
	first, last   string
}

func goldens() []golden {
	return []golden{
		{"13", "00000001000000000000000A", 7710426698734779249, 487, 0xA04668, 0xA09A58, "2026-11-21T01:13:34.393416Z", "2026-11-21T01:13:34.43736Z"},
		{"14", "00000001000000000000000B", 7710426717251571072, 735, 0xB04668, 0xB094E8, "2026-11-21T01:13:40.8765Z", "2026-11-21T01:13:40.919158Z"},
		{"15", "000000010000000000000009", 7710426744408989777, 726, 0x904668, 0x90A290, "2026-11-21T01:13:45.90969Z", "2026-11-21T01:13:46.37805Z"},
		{"16", "000000010000000000000009", 7710426767719011008, 732, 0x904678, 0x90B070, "2026-11-21T01:13:50.901086Z", "2026-11-21T01:13:51.242405Z"},
		{"17", "000000010000000000000009", 7710426786763162874, 740, 0x904668, 0x909DD0, "2026-11-21T01:13:53.749987Z", "2026-11-21T01:13:54.161637Z"},
		{"18", "000000010000000000000009", 7710426800576288478, 754, 0x904668, 0x90B350, "2026-11-21T01:13:57.801394Z", "2026-11-21T01:13:57.906705Z"},
	}
}

// data is the whole segment: the file holds its beginning, the rest is zero.
func (g golden) data(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/segment-" + g.version + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, 1<<20-len(b))...)
}

func (g golden) expect() walsource.Expect {
	return walsource.Expect{SystemID: g.id, SegmentSize: 1 << 20, BlockSize: 8192}
}

func TestGoldenSegmentsOfAllVersions(t *testing.T) {
	for _, g := range goldens() {
		info, err := walsource.Validate(g.name, g.data(t), g.expect())
		if err != nil {
			t.Errorf("%s: %v", g.version, err)
			continue
		}
		got := []any{info.Commits, info.Aborts, info.FirstCommit.Format(time.RFC3339Nano), info.LastCommit.Format(time.RFC3339Nano),
			info.MinXID, info.MaxXID, info.EndOfData, info.Switched, info.HeadUnread, info.Unknown, len(info.RestorePoints), info.Partial}
		want := []any{3, 1, g.first, g.last, g.minXID, g.minXID + 4, g.end, true, false, 0, 1, false}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", g.version, got, want)
		}
		if p := info.RestorePoints[0]; p.Name != "golden" || p.LSN != g.point {
			t.Errorf("%s: %+v", g.version, p)
		}
		partial, err := walsource.Validate(g.name+".partial", g.data(t), walsource.Expect{})
		if err != nil || !partial.Partial || partial.EndOfData != g.end || partial.Segment != info.Segment {
			t.Errorf("%s as partial: %+v, %v", g.version, partial, err)
		}
	}
}

func TestWrongSegmentsAreRefusedWithBothValues(t *testing.T) {
	g := goldens()[2]
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	for _, c := range []struct {
		what   string
		name   string
		change func([]byte) []byte
		expect walsource.Expect
		err    error
		says   []string
	}{
		{"no bytes", g.name, cut(0), g.expect(), walsource.ErrEmpty, []string{"0 bytes"}},
		{"zeros", g.name, func(b []byte) []byte { return make([]byte, len(b)) }, g.expect(), walsource.ErrEmpty, []string{"1048576", "zero"}},
		{"other cluster", g.name, nil, walsource.Expect{SystemID: 7}, walsource.ErrForeign, []string{"7710426744408989777", "has 7"}},
		{"other segment size", g.name, nil, walsource.Expect{SegmentSize: 16 << 20}, walsource.ErrForeign, []string{"1048576", "16777216"}},
		{"other block size", g.name, nil, walsource.Expect{BlockSize: 16384}, walsource.ErrForeign, []string{"8192", "16384"}},
		{"half", g.name, cut(1 << 19), g.expect(), walsource.ErrTruncated, []string{"524288", "1048576"}},
		{"a byte short", g.name, cut(1<<20 - 1), g.expect(), walsource.ErrTruncated, []string{"1048575", "1048576"}},
		{"part of a header", g.name, cut(39), g.expect(), walsource.ErrTruncated, []string{"39"}},
		{"too long", g.name, func(b []byte) []byte { return append(b, 0) }, g.expect(), walsource.ErrNotWAL, []string{"1048577", "1048576"}},
		{"text", g.name, func(b []byte) []byte { return bytes.Repeat([]byte("text"), 1<<18) }, g.expect(), walsource.ErrNotWAL, []string{"6574"}},
		{"version 12", g.name, put32(0, 0x2D101), g.expect(), walsource.ErrVersion, []string{"D101", "13 to 18"}},
		{"version 19", g.name, put32(0, 0x2D120), g.expect(), walsource.ErrVersion, []string{"D120"}},
		{"short header", g.name, put32(0, 0x0D110), g.expect(), walsource.ErrNotWAL, []string{"flags 0000"}},
		{"impossible segment size", g.name, put32(32, 3), walsource.Expect{}, walsource.ErrNotWAL, []string{"3"}},
		{"impossible block size", g.name, put32(36, 0), walsource.Expect{}, walsource.ErrNotWAL, []string{"0"}},
		{"another segment", "00000001000000000000000A", nil, g.expect(), walsource.ErrMisnamed, []string{"0/900000", "0/A00000"}},
		{"number that the size excludes", "000000010000000000001009", nil, g.expect(), walsource.ErrMisnamed, []string{"1009"}},
		{"timeline from above", g.name, put32(4, 2), g.expect(), walsource.ErrMisnamed, []string{"timeline 2", "says 1"}},
		{"no timeline", g.name, put32(4, 0), g.expect(), walsource.ErrMisnamed, []string{"timeline 0"}},
		{"a history file", "00000002.history", nil, g.expect(), pg.ErrSyntax, []string{"history"}},
		{"no WAL file", "RECOVERYXLOG", nil, g.expect(), pg.ErrSyntax, []string{"RECOVERYXLOG"}},
	} {
		data := g.data(t)
		if c.change != nil {
			data = c.change(data)
		}
		info, err := walsource.Validate(c.name, data, c.expect)
		if !errors.Is(err, c.err) || info != nil {
			t.Errorf("%s: %+v, %v", c.what, info, err)
			continue
		}
		for _, s := range append(c.says, c.name) {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %q", c.what, err, s)
			}
		}
	}
}

func TestSegmentOfANewTimelineBeginsWithPagesOfTheOld(t *testing.T) {
	g := goldens()[5]
	info, err := walsource.Validate("00000003"+g.name[8:], g.data(t), g.expect())
	if err != nil || info.FirstTimeline != 1 || info.Segment.Timeline != 3 {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestUnfinishedSegmentIsRefused: were it archived, the real one could not be.
func TestUnfinishedSegmentIsRefused(t *testing.T) {
	for _, g := range goldens() {
		full := g.data(t)
		old := bytes.Clone(full) // what a recycled file holds behind: pages with their old addresses
		for at := 0; at < len(old); at += 8192 {
			copy(old[at:], full[:8192])
			binary.LittleEndian.PutUint64(old[at+8:], uint64(at)) // segment 0
		}
		for _, behind := range [][]byte{make([]byte, len(full)), old} {
			for page := 1; page <= 4; page++ {
				data := append(bytes.Clone(full[:page*8192]), behind[page*8192:]...)
				info, err := walsource.Validate(g.name, data, g.expect())
				var stop *walsource.RecordError
				if !errors.As(err, &stop) || !errors.Is(err, walsource.ErrUnfinished) || stop.Name != g.name || info == nil ||
					info.EndOfData > stop.LSN || stop.LSN != info.Segment.Start(1<<20)+pg.LSN(page*8192) {
					t.Fatalf("%s, %d pages: %+v, %v", g.version, page, info, err)
				}
				partial, err := walsource.Validate(g.name+".partial", data, g.expect())
				if err != nil || partial.EndOfData != info.EndOfData || partial.Records != info.Records {
					t.Fatalf("%s, %d pages as partial: %+v, %v", g.version, page, partial, err)
				}
			}
		}
	}
}

// TestDamageIsFoundOrHarmless flips bits all over a segment's records: what is not found must not matter.
func TestDamageIsFoundOrHarmless(t *testing.T) {
	for _, g := range goldens() {
		data := g.data(t)
		want, err := walsource.Validate(g.name, data, g.expect())
		if err != nil {
			t.Fatal(err)
		}
		found, missed := 0, 0
		for at := 0; at < int(g.end&0xFFFFF); at += 61 {
			bit := byte(1) << (at % 8)
			data[at] ^= bit
			info, err := walsource.Validate(g.name, data, g.expect())
			data[at] ^= bit
			switch {
			case err != nil:
				found++
			case !reflect.DeepEqual(info, want):
				t.Fatalf("%s: byte %d changed %+v to %+v", g.version, at, want, info)
			default:
				missed++
			}
		}
		// Padding between records and in page headers.
		if missed > found/20 {
			t.Errorf("%s: %d found, %d missed", g.version, found, missed)
		}
	}
}

// TestStaleRecordIsNotTaken repeats a whole, valid record in the place of the next one.
func TestStaleRecordIsNotTaken(t *testing.T) {
	for _, g := range goldens() {
		data := g.data(t)
		length := int(binary.LittleEndian.Uint32(data[40:]))
		next := 40 + (length+7)/8*8
		copy(data[next:], data[40:40+length])
		info, err := walsource.Validate(g.name, data, g.expect())
		if !errors.Is(err, walsource.ErrBroken) || !strings.Contains(err.Error(), "follows") || info.Records != 1 {
			t.Errorf("%s: %+v, %v", g.version, info, err)
		}
	}
}

func TestDamageBeforeWrittenPagesIsBrokenNotUnfinished(t *testing.T) {
	g := goldens()[2]
	data := g.data(t)
	data[2*8192+200] ^= 1
	info, err := walsource.Validate(g.name, data, g.expect())
	var stop *walsource.RecordError
	if !errors.As(err, &stop) || !errors.Is(err, walsource.ErrBroken) || errors.Is(err, walsource.ErrUnfinished) || info.EndOfData > stop.LSN || info.Records == 0 {
		t.Fatalf("%+v, %v", info, err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, g.name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := walsource.ReadFile(path, g.expect())
	if !errors.Is(err, walsource.ErrBroken) || f == nil || !bytes.Equal(f.Data, data) || !reflect.DeepEqual(f.Info, info) {
		t.Errorf("read: %+v, %v", f, err)
	}
}

func TestAReaderReadsOneFileAfterTheOtherIntoTheSameMemory(t *testing.T) {
	dir := t.TempDir()
	var r walsource.Reader
	for range 2 {
		for _, g := range goldens() {
			data := g.data(t)
			path := filepath.Join(dir, g.name)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			want, err := walsource.ReadFile(path, g.expect())
			if err != nil {
				t.Fatal(err)
			}
			f, err := r.ReadFile(path, g.expect())
			if err != nil || !bytes.Equal(f.Data, data) || !reflect.DeepEqual(f.Info, want.Info) {
				t.Errorf("%s: %+v, %v", g.name, f.Info, err)
			}
			short := filepath.Join(dir, "0000000100000000000000FE")
			if err := os.WriteFile(short, data[:len(data)/2], 0o600); err != nil {
				t.Fatal(err)
			}
			if f, err := r.ReadFile(short, g.expect()); !errors.Is(err, walsource.ErrTruncated) || f != nil {
				t.Errorf("half of %s: %+v, %v", g.name, f, err)
			}
		}
	}
}

func TestFilesThatAreNoSegments(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const name = "000000010000000000000001"
	e16 := walsource.Expect{SegmentSize: 16 << 20}
	for _, c := range []struct {
		size   int
		expect walsource.Expect
		want   error
	}{
		{0, walsource.Expect{}, walsource.ErrEmpty}, {0, e16, walsource.ErrEmpty}, {1, e16, walsource.ErrTruncated}, {1 << 20, e16, walsource.ErrTruncated},
		{32 << 20, e16, walsource.ErrForeign}, {17 << 20, e16, walsource.ErrNotWAL}, {1000, walsource.Expect{}, walsource.ErrTruncated},
		{3 << 20, walsource.Expect{}, walsource.ErrTruncated}, {1 << 20, walsource.Expect{}, walsource.ErrEmpty},
	} {
		path := write(name, make([]byte, c.size))
		if f, err := walsource.ReadFile(path, c.expect); !errors.Is(err, c.want) || f != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%d bytes: %+v, %v", c.size, f, err)
		}
	}
	if _, err := walsource.ReadFile(filepath.Join(dir, "000000010000000000000002"), e16); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := walsource.ReadFile(write("postmaster.pid", nil), e16); !errors.Is(err, pg.ErrSyntax) {
		t.Errorf("other name: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "000000010000000000000003"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := walsource.ReadFile(filepath.Join(dir, "000000010000000000000003"), e16); !errors.Is(err, walsource.ErrNotWAL) {
		t.Errorf("directory: %v", err)
	}
	if _, err := walsource.ReadFile(write("00000002.history", make([]byte, 2<<20)), e16); !errors.Is(err, walsource.ErrNotWAL) {
		t.Errorf("large history: %v", err)
	}
}

func TestHistoryFiles(t *testing.T) {
	const good = "1\t0/3000060\tno recovery target specified\n"
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"00000002.history", good, nil},
		{"00000002.history", "", walsource.ErrEmpty},
		{"00000002.history", "\x00\x00", walsource.ErrEmpty},
		{"00000002.history", "# nothing\n", walsource.ErrEmpty},
		{"00000002.history", good[:8], walsource.ErrTruncated},
		{"00000002.history", good[:len(good)-1], walsource.ErrTruncated},
		{"00000002.history", "1\t0/30\x000060\tx\n", walsource.ErrNotWAL},
		{"00000002.history", "x\n", walsource.ErrMisnamed},
		{"00000002.history", good + "2\t0/4000000\tx\n", walsource.ErrMisnamed},
		{"00000001.history", good, walsource.ErrMisnamed},
		{"000000010000000000000001", good, pg.ErrSyntax},
	} {
		h, err := walsource.ValidateHistory(c.name, []byte(c.text))
		if !errors.Is(err, c.want) || (err == nil) != (len(h) == 2) {
			t.Errorf("%s %q: %+v, %v", c.name, c.text, h, err)
		}
	}
}

func TestBackupHistoryFiles(t *testing.T) {
	const good = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTOP WAL LOCATION: 0/3000138 (file 000000010000000000000003)\n" +
		"CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-21 01:00:00 UTC\nLABEL: a\nSTART WAL LOCATION: x\n" +
		"START TIMELINE: 1\nSTOP TIME: 2026-11-21 01:00:01 UTC\nSTOP TIMELINE: 1\n"
	const name = "000000010000000000000002.00000028.backup"
	b, err := walsource.ValidateBackup(name, []byte(good), walsource.Expect{SegmentSize: 16 << 20})
	if err != nil || b.Start != 0x2000028 || b.Stop != 0x3000138 || b.StopFile != "000000010000000000000003" || b.Label != "a" {
		t.Errorf("%+v, %v", b, err)
	}
	replace := func(old, with string) string { return strings.Replace(good, old, with, 1) }
	for _, c := range []struct {
		what, name, text string
		want             error
	}{
		{"empty", name, "", walsource.ErrEmpty},
		{"cut in the first line", name, good[:40], walsource.ErrTruncated},
		{"cut after it", name, good[:strings.Index(good, "STOP")], walsource.ErrTruncated},
		{"other text", name, "hello\n", walsource.ErrNotWAL},
		{"bad position", name, replace("0/2000028", "2000028"), walsource.ErrNotWAL},
		{"bad file", name, replace("000000010000000000000002)", "x)"), walsource.ErrNotWAL},
		{"stop before start", name, replace("0/3000138", "0/1000138"), walsource.ErrNotWAL},
		{"other segment", "000000010000000000000001.00000028.backup", good, walsource.ErrMisnamed},
		{"other offset", "000000010000000000000002.00000029.backup", good, walsource.ErrMisnamed},
		{"other kind", "000000010000000000000002", good, pg.ErrSyntax},
	} {
		if b, err := walsource.ValidateBackup(c.name, []byte(c.text), walsource.Expect{SegmentSize: 16 << 20}); !errors.Is(err, c.want) || b != nil {
			t.Errorf("%s: %+v, %v", c.what, b, err)
		}
	}
}
