package walarchive

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
)

var update = flag.Bool("update", false, "write the golden files anew")

func goldenHeaders() map[string]*Header {
	size := pg.DefaultSegmentSize
	segment := pg.Segment{Timeline: 0xB, Number: 0x1FE}
	return map[string]*Header{
		"header-segment.golden": {
			Kind: Segment, Cluster: "main", System: 7300000000000000001, Timeline: 0xB, Name: segment.Name(size),
			Facts: Facts{
				SegmentSize: size, Major: 15,
				FirstCommit: time.Date(2026, 5, 1, 12, 0, 0, 123456000, time.UTC),
				LastCommit:  time.Date(2026, 5, 1, 12, 0, 59, 1000, time.UTC),
				MinXID:      4294967290, MaxXID: 17,
				RestorePoints: []RestorePoint{{
					Name: "before upgrade", LSN: segment.Start(size) + 0x1000, Time: time.Date(2026, 5, 1, 12, 0, 30, 0, time.UTC),
				}},
				End: segment.Start(size) + 0xABCDE8, Broken: true, FullPageWritesOff: true,
			},
		},
		"header-empty-segment.golden": {
			Kind: Segment, Cluster: "main", System: 1, Timeline: 1, Name: "000000010000000000000001",
			Facts: Facts{SegmentSize: size, Major: 18},
		},
		"header-partial.golden": {
			Kind: Partial, Cluster: "c", System: 1<<64 - 1, Timeline: 1, Name: "000000010000000000000001.partial",
			Facts: Facts{SegmentSize: 1 << 20, Major: 13, End: 0x100028},
		},
		"header-backup.golden": {
			Kind: Backup, Cluster: "main", System: 1, Timeline: 1, Name: "000000010000000000000001.00000028.backup",
			Facts: Facts{SegmentSize: size},
		},
		"header-part.golden": {
			Kind: PartKind, Cluster: "main", System: 7300000000000000001, Timeline: 0xB,
			Name: segment.Name(size) + ".part/00a40000-00abe000-20261121T183000Z-0123456789abcdef",
			Facts: Facts{
				SegmentSize: size, Major: 15,
				FirstCommit: time.Date(2026, 5, 1, 12, 0, 0, 123456000, time.UTC),
				LastCommit:  time.Date(2026, 5, 1, 12, 0, 59, 1000, time.UTC),
				MinXID:      4294967290, MaxXID: 17, End: segment.Start(size) + 0xABCDE8, Unsure: true,
			},
		},
		"header-receivers.golden": {
			Kind: Receivers, Cluster: "main", System: 1, Name: "receive",
			Inline: []byte(`{"version":1,"since":"2026-11-21T18:30:00Z","nonce":"0123456789abcdef"}`),
		},
		"header-history.golden": {
			Kind: History, Cluster: "main", System: 1, Timeline: 2, Name: "00000002.history",
			Inline: []byte("1\t0/3000000\tno recovery target specified\n"),
		},
	}
}

func TestHeadersHaveTheirGoldenBytes(t *testing.T) {
	for file, h := range goldenHeaders() {
		path := filepath.Join("testdata", file)
		got, err := h.Marshal()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: wrote %x, want %x", file, got, want)
		}
		back, err := ParseHeader(want)
		if err != nil || !reflect.DeepEqual(back, h) {
			t.Errorf("%s reads as %+v, %v", file, back, err)
		}
		for n := range want {
			if _, err := ParseHeader(want[:n]); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s cut to %d bytes: %v", file, n, err)
			}
		}
		if _, err := ParseHeader(append(want, 0)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s with a byte more: %v", file, err)
		}
	}
}

func TestHeadersThatNoWriterMakesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Header){
		"another kind":         func(h *Header) { h.Kind = Partial },
		"unknown kind":         func(h *Header) { h.Kind = 9 },
		"another timeline":     func(h *Header) { h.Timeline++ },
		"no cluster":           func(h *Header) { h.Cluster = "" },
		"no segment size":      func(h *Header) { h.SegmentSize = 0 },
		"odd segment size":     func(h *Header) { h.SegmentSize-- },
		"history in a segment": func(h *Header) { h.Inline = []byte("x") },
		"one commit time":      func(h *Header) { h.FirstCommit = time.Time{} },
		"commits backwards":    func(h *Header) { h.FirstCommit, h.LastCommit = h.LastCommit, h.FirstCommit },
		"one transaction":      func(h *Header) { h.MinXID = 0 },
		"end in next segment":  func(h *Header) { h.End += pg.LSN(h.SegmentSize) },
		"end before segment":   func(h *Header) { h.End = 1 },
		"nameless point":       func(h *Header) { h.RestorePoints[0].Name = "" },
		"long name of a point": func(h *Header) { h.RestorePoints[0].Name = string(make([]byte, 64)) },
		"too many points":      func(h *Header) { h.RestorePoints = make([]RestorePoint, maxRestorePoints+1) },
		"major version":        func(h *Header) { h.Major = -1 },
	} {
		h := goldenHeaders()["header-segment.golden"]
		change(h)
		if _, err := h.Marshal(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	backup := goldenHeaders()["header-backup.golden"]
	backup.Unsure = true
	if _, err := backup.Marshal(); !errors.Is(err, ErrInvalid) {
		t.Errorf("backup file with records: %v", err)
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, h := range goldenHeaders() {
		b, err := h.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		back, err := h.Marshal()
		if err != nil {
			t.Fatalf("a header that was read cannot be written: %v", err)
		}
		if !bytes.Equal(back, b) {
			t.Fatalf("%x was written as %x", b, back)
		}
	})
}
