package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage/meter"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walarchive"
)

// received asks for what was received of a segment as wal fetch does, and counts requests, those for the full segment not among them.
func (h *archiver) received(segment string) (n int64, content []byte, err error) {
	h.t.Helper()
	counting := meter.New(h.store)
	err = h.withOpened(h.t.Context(), h.cache, "s3://bucket", "place", counting, func(r *repo.Repo) error {
		before := counting.Counts().Requests()
		o := openedArchive{Archive: walarchive.Archive{Objects: walObjects{r}, Cluster: "main", System: 7}}
		o.owner = walahead.Owner{Place: "place", Repository: r.Config().ID, Cluster: "main", System: 7}
		o.receivers = receiversCache{filepath.Join(h.cache.dir, "receivers"), h.cache.now}
		_, content, err = o.fetchReceived(h.t.Context(), segment, func(string, error) { h.t.Error("damage") })
		n = counting.Counts().Requests() - before
		return err
	})
	return n, content, err
}

func TestAnAbsentSegmentCostsOneRequestWhereNobodyReceives(t *testing.T) {
	h := newArchiver(t)
	const segment = "000000010000000000000003"
	absent := func(what string, want int64) {
		t.Helper()
		if n, _, err := h.received(segment); n != want || !errors.Is(err, walarchive.ErrNotExist) {
			t.Errorf("%s: %d requests and not %d, %v", what, n, want, err)
		}
	}
	absent("the first time", 1)
	absent("and then", 0)
	h.clock = h.clock.Add(2 * believed)
	absent("after a while", 1)
	absent("after that", 0)

	content := bytes.Repeat([]byte("abc"), 1000)
	if _, err := h.requests(func(ctx context.Context, a walarchive.Archive) error {
		_, err := a.AnnounceReceiver(ctx)
		return errors.Join(err, a.PushPart(ctx, walarchive.Part{
			Segment: segment, Receiver: "20260501T120000Z-0123456789abcdef", To: int64(len(content)), Content: content,
			Facts: walarchive.Facts{SegmentSize: pg.MinSegmentSize},
		}))
	}); err != nil {
		t.Fatal(err)
	}
	absent("for a minute at most", 0)
	h.clock = h.clock.Add(believed)
	for _, want := range []int64{3, 2, 2} { // the note, a listing, and a part
		n, got, err := h.received(segment)
		if n != want || err != nil || len(got) != int(pg.MinSegmentSize) || !bytes.Equal(bytes.TrimRight(got, "\x00"), content) {
			t.Errorf("%d requests and not %d, %d bytes, %v", n, want, len(got), err)
		}
		h.clock = h.clock.Add(time.Hour)
	}
	h.clock = h.clock.Add(-48 * time.Hour) // what is in the future is not believed
	if n, _, err := h.received(segment); n != 3 || err != nil {
		t.Errorf("%d requests, %v", n, err)
	}
}
