package main

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walsource"
)

const (
	maxAhead = 1000
	// aheadBegin is for how long after its own segment is durable a call begins to push others. It is short: meanwhile the server's
	// archiver waits, and with it a shutdown.
	aheadBegin = 5 * time.Second
	// aheadEnd is when a call gives up those that it has begun. It is for storage that neither takes nor refuses.
	aheadEnd = time.Minute
	// aheadMemory bounds segments that are in memory at once, the call's own included. Each is there twice, as it is and sealed.
	aheadMemory = 256 << 20
)

// pushJobs is how many segments a call pushes at once. The server needs its processors where WAL piles up.
func pushJobs() int { return min(4, max(2, runtime.NumCPU()/2)) }

// records are those of the archive's owner on this host.
func (p *walPusher) records(archive openedArchive) walahead.Records {
	return walahead.NewRecords(p.cacheDir(), archive.owner)
}

// known says whether an earlier call has pushed this very file. Any doubt is no: it is then pushed, which does no harm. outage is why that would fail
// as well: the storage was tried for as long as a call may.
func (p *walPusher) known(ctx context.Context) (known bool, outage error) {
	if p.kind != pg.KindSegment || p.control == nil || !walahead.AnyRecord(p.cacheDir(), p.name) {
		return false, nil
	}
	state, err := walahead.StateOf(p.path)
	if err != nil {
		return false, nil
	}
	has := func(owner walahead.Owner) {
		r := walahead.NewRecords(p.cacheDir(), owner)
		known = r.Has(p.name, state, time.Now())
		r.Drop(p.name)
	}
	if owner, ok := p.ownerInDirectory(ctx); ok {
		has(owner)
		return known, nil
	}
	err = p.withArchive(ctx, "archive "+p.name, p.control.SystemID, func(archive openedArchive) error {
		has(archive.owner)
		return nil
	})
	if errors.Is(err, storage.ErrUnreachable) {
		return false, err
	}
	return known, nil
}

// ownerInDirectory tells whose archive it is without a key, which takes a while to open: of a directory the config says that, and is read each time.
// (Of object storage it is remembered for a minute, and then it is the key that tells whether the repository is another by now.)
func (p *walPusher) ownerInDirectory(ctx context.Context) (o walahead.Owner, ok bool) {
	name, err := p.repositoryName()
	if err != nil || isRemote(name) {
		return o, false
	}
	store, _, err := p.openStorage(ctx, name)
	if err != nil {
		return o, false
	}
	config, err := repo.ReadConfig(ctx, store)
	if err != nil {
		return o, false
	}
	return walahead.Owner{Place: name, Repository: config.ID, Cluster: p.settings.clusterName(), System: p.control.SystemID}, true
}

// aheadPush pushes the segments that wait behind the call's own, once that is durable. Nothing that happens to them is the call's failure.
type aheadPush struct {
	p       *walPusher
	archive openedArchive
	records walahead.Records
	durable time.Time // when the call's own was
	cancel  context.CancelFunc
	readers chan *walsource.Reader // one is held by every segment that is in memory
	width   int                    // how many there are
	wg      sync.WaitGroup

	mu      sync.Mutex
	stopped bool // begin no more
}

// aheadWidth is how many segments are pushed ahead at once where one of them took so long alone. They may share what it had, and are to be done in half
// of the time after which they are given up, for what is given up is sent for nothing, and again by the next call. 0: none.
func aheadWidth(jobs int, size pg.SegmentSize, took time.Duration) int {
	width := min(jobs+1, aheadMemory/int(size)) // one of them waits for the storage
	if width < 2 {
		return 0 // one such segment at a time: nothing is gained by beginning early
	}
	return min(width, int(aheadEnd/2/max(took, time.Millisecond)))
}

// beginAhead starts. same says that the archive had the call's own segment before, took how long its push was. The result is never nil; wait must be called.
func (p *walPusher) beginAhead(ctx context.Context, archive openedArchive, same bool, took time.Duration) *aheadPush {
	h := &aheadPush{p: p, archive: archive, records: p.records(archive), durable: time.Now(), cancel: func() {}}
	if p.kind != pg.KindSegment || p.control == nil || p.ahead == 0 || p.cacheDir() == "" || archive.System != p.control.SystemID {
		return h
	}
	first, err := pg.ParseSegment(p.name, p.expect.SegmentSize)
	if err != nil {
		return h
	}
	if h.width = aheadWidth(p.jobs(pushJobs()), p.expect.SegmentSize, took); h.width == 0 {
		return h
	}
	h.readers = make(chan *walsource.Reader, h.width)
	for range h.width {
		h.readers <- new(walsource.Reader)
	}
	ctx, h.cancel = context.WithTimeout(ctx, aheadEnd)
	p.onRetry(h.storageFails)
	h.wg.Go(func() {
		walahead.Tidy(p.cacheDir(), time.Now())
		h.run(ctx, first, same)
	})
	return h
}

func (h *aheadPush) wait() {
	h.wg.Wait()
	h.cancel()
	h.p.onRetry(nil)
}

// storageFails is told of requests that are tried again: with its own segment safe, the call does not wait for better times.
func (h *aheadPush) storageFails() {
	h.stop()
	h.cancel()
}

func (h *aheadPush) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
}

func (h *aheadPush) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopped || time.Since(h.durable) > aheadBegin
}

// run finds the segments by counting, and stops at the first that does not wait: so it does not matter how many do.
//
// same says that the last one was in the archive before. As long as that is so, what the archive has may be another server's, which goes on differently:
// the next one is pushed alone, so that nothing gets ahead of a segment that is refused.
func (h *aheadPush) run(ctx context.Context, first pg.Segment, same bool) {
	size, dir := h.p.expect.SegmentSize, filepath.Dir(h.p.path)
	seg := first
	for range h.p.ahead {
		seg = seg.Next()
		name := seg.Name(size)
		if !walahead.Ready(dir, name) {
			return
		}
		path := filepath.Join(dir, name)
		state, err := walahead.StateOf(path)
		if err != nil || !state.Settled(time.Now()) {
			return
		}
		if h.records.Has(name, state, time.Now()) {
			same = true // for all we know
			continue
		}
		var reader *walsource.Reader
		select {
		case reader = <-h.readers:
		case <-ctx.Done():
			return
		}
		if h.over() || ctx.Err() != nil {
			return
		}
		push := func() (same bool) {
			defer func() { h.readers <- reader }()
			same, err := h.one(ctx, reader, path, name, state)
			if err != nil {
				h.p.out.detail("not pushed before its turn: %v", err)
				h.stop()
			}
			return same
		}
		if !same {
			h.wg.Go(func() { push() })
			continue
		}
		begun := time.Now()
		same = push()
		if h.over() || !h.narrow(ctx, aheadWidth(h.p.jobs(pushJobs()), size, time.Since(begun))) {
			return
		}
	}
}

// narrow lets no more than width be pushed at once from now on. It returns false where that is none, or where ctx ends.
func (h *aheadPush) narrow(ctx context.Context, width int) bool {
	for h.width > width {
		select {
		case <-h.readers:
			h.width--
		case <-ctx.Done():
			return false
		}
	}
	return h.width > 0
}

// one pushes a segment and remembers it if the file is still the one, as it was, that it looked at before it read it.
func (h *aheadPush) one(ctx context.Context, reader *walsource.Reader, path, name string, before walahead.FileState) (same bool, err error) {
	file, err := reader.ReadFile(path, h.p.expect)
	if err != nil {
		return false, err // a broken one too: its own call warns
	}
	if same, err = h.p.app.push(ctx, h.archive.Archive, name, file.Data, h.p.factsOf(file.Info, nil)); err != nil {
		return false, err
	}
	after, err := walahead.StateOf(path)
	if err != nil || after != before {
		return same, err
	}
	if err := h.records.Keep(name, before, time.Now()); err != nil {
		h.p.out.detail("cannot remember that %s is archived: %v", name, err)
		h.stop()
	}
	return same, nil
}
