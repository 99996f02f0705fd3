package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/walarchive"
)

// TestTheFirstSegmentOfATimelineIsMadeOfAnAncestors only as far as that is right. Segment 3 begins at 0/300000.
func TestTheFirstSegmentOfATimelineIsMadeOfAnAncestors(t *testing.T) {
	const size = pg.MinSegmentSize
	name := func(tli pg.Timeline) string { return pg.Segment{Timeline: tli, Number: 3}.Name(size) }
	type part struct {
		tli pg.Timeline
		to  int
	}
	for what, c := range map[string]struct {
		ask     pg.Timeline
		history string
		parts   []part
		whole   []pg.Timeline
		want    int64       // bytes of WAL; -1: nothing
		of      pg.Timeline // whose
	}{
		"the parent's parts":                         {ask: 2, history: "1\t0/301000\tx\n", parts: []part{{1, 8192}}, want: 4096, of: 1},
		"exactly to the fork":                        {ask: 2, history: "1\t0/301000\tx\n", parts: []part{{1, 4096}}, want: 4096, of: 1},
		"not to the fork":                            {ask: 2, history: "1\t0/301000\tx\n", parts: []part{{1, 4088}}, want: -1},
		"the parent's whole segment":                 {ask: 2, history: "1\t0/301000\tx\n", whole: []pg.Timeline{1}, want: 4096, of: 1},
		"its own parts go farther":                   {ask: 2, history: "1\t0/301000\tx\n", parts: []part{{1, 8192}, {2, 6000}}, want: 6000, of: 2},
		"its own parts do not come to the fork":      {ask: 2, history: "1\t0/301000\tx\n", parts: []part{{1, 8192}, {2, 1000}}, want: 4096, of: 1},
		"the fork is in another segment":             {ask: 2, history: "1\t0/201000\tx\n", parts: []part{{1, 8192}}, want: -1},
		"the fork is where the segment begins":       {ask: 2, history: "1\t0/300000\tx\n", want: 0},
		"no history":                                 {ask: 2, parts: []part{{1, 8192}}, want: -1},
		"a history that cannot be read":              {ask: 2, history: "x", parts: []part{{1, 8192}}, want: -1},
		"timeline 1":                                 {ask: 1, want: -1},
		"a grandparent's, the parent has no stretch": {ask: 3, history: "1\t0/301000\tx\n2\t0/301000\tx\n", parts: []part{{1, 8192}}, want: 4096, of: 1},
		"the parent's goes before a grandparent's":   {ask: 3, history: "1\t0/301000\tx\n2\t0/301000\tx\n", parts: []part{{1, 8192}}, whole: []pg.Timeline{2}, want: 4096, of: 2},
		"not a grandparent's, the parent wrote too":  {ask: 3, history: "1\t0/301000\tx\n2\t0/301800\tx\n", parts: []part{{1, 8192}}, want: -1},
	} {
		t.Run(what, func(t *testing.T) {
			h := newArchiver(t)
			f := &walFetcher{app: h.app, name: name(c.ask), pgdata: t.TempDir(), control: &pg.Control{SystemID: 7, WALSegmentSize: size}}
			f.path = filepath.Join(f.pgdata, "pg_wal", "RECOVERYXLOG")
			if err := os.Mkdir(filepath.Dir(f.path), 0o700); err != nil {
				t.Fatal(err)
			}
			if c.history != "" {
				if err := os.WriteFile(filepath.Join(f.pgdata, "pg_wal", c.ask.HistoryName()), []byte(c.history), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var content []byte
			var err error
			ctx := t.Context()
			failed := h.withOpened(ctx, h.cache, "s3://bucket", "place", h.store, func(r *repo.Repo) error {
				a := walarchive.Archive{Objects: walObjects{r}, Cluster: "main", System: 7}
				if _, err := a.AnnounceReceiver(ctx); err != nil {
					return err
				}
				for _, p := range c.parts {
					if err := a.PushPart(ctx, walarchive.Part{
						Segment: name(p.tli), Receiver: "20260501T120000Z-0123456789abcdef", To: int64(p.to), Content: bytes.Repeat([]byte{byte(p.tli)}, p.to),
						Facts: walarchive.Facts{SegmentSize: size, End: 0x300000 + pg.LSN(p.to)},
					}); err != nil {
						return err
					}
				}
				for _, tli := range c.whole {
					if _, err := a.Push(ctx, name(tli), bytes.Repeat([]byte{byte(tli)}, int(size)), walarchive.Facts{SegmentSize: size, End: 0x400000}); err != nil {
						return err
					}
				}
				_, content, err = f.fetchUnfinished(ctx, openedArchive{Archive: a, receivers: receiversCache{now: h.cache.now}})
				return nil
			})
			if failed != nil {
				t.Fatal(failed)
			}
			if c.want < 0 {
				if !errors.Is(err, walarchive.ErrNotExist) {
					t.Errorf("%d bytes, %v", len(content), err)
				}
				return
			}
			want := append(bytes.Repeat([]byte{byte(c.of)}, int(c.want)), make([]byte, int64(size)-c.want)...)
			if err != nil || !bytes.Equal(content, want) {
				t.Errorf("%d bytes of timeline %d, want %d of %d; %v", len(bytes.TrimRight(content, "\x00")), append(content, 0)[0], c.want, c.of, err)
			}
		})
	}
}
