package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walsource"
)

// fetchUnfinished returns what there is of a segment that the archive does not hold in full: what was received of it; or of a timeline's first one, which
// begins with its parent's WAL, that WAL up to where the timeline forks off. The header is then a part's. Where the server itself has more of the segment, nothing is
// returned: it would not look at that. ErrNotExist: nothing.
func (f *walFetcher) fetchUnfinished(ctx context.Context, archive openedArchive) (*walarchive.Header, []byte, error) {
	segment, err := pg.ParseSegment(f.name, f.control.WALSegmentSize)
	if err != nil {
		return nil, nil, err
	}
	h, content, err := archive.fetchReceived(ctx, f.name, f.tellDamagedPart)
	if err != nil && !errors.Is(err, walarchive.ErrNotExist) {
		return nil, nil, err
	}
	if err != nil || h.Kind == walarchive.PartKind {
		forked, its, ferr := f.fetchFork(ctx, archive, segment, h)
		if ferr != nil {
			return nil, nil, ferr
		}
		if forked != nil {
			h, content, err = forked, its, nil
		}
	}
	if err == nil && h.Kind == walarchive.PartKind && f.serverHasMore(h.End) {
		f.out.detail("the server has more of %s than was received", f.name)
		return nil, nil, walarchive.ErrNotExist
	}
	return h, content, err
}

// fetchFork makes the segment in which its timeline begins of its parent's, as the server did that was promoted: the WAL up to the fork, and zeros
// (XLogInitNewTimeline in xlog.c). PostgreSQL asks for the newest timeline first, and where that has no file goes on to the parent's, whole or in part, and replays what the
// parent wrote behind the fork. received, if not nil, is how far the timeline's own was received. Nil: there is nothing to make it of, or no need.
func (f *walFetcher) fetchFork(ctx context.Context, archive openedArchive, segment pg.Segment, received *walarchive.Header) (*walarchive.Header, []byte, error) {
	if segment.Timeline == 1 {
		return nil, nil, nil
	}
	history, err := f.historyOf(ctx, archive, segment.Timeline)
	if err != nil || len(history) < 2 {
		return nil, nil, err
	}
	size, fork := f.control.WALSegmentSize, history[len(history)-2].LSN
	if pg.SegmentOf(1, fork, size).Number != segment.Number || received != nil && received.End >= fork {
		return nil, nil, nil
	}
	begins := walarchive.Header{Kind: walarchive.PartKind, Cluster: archive.Cluster, System: archive.System, Timeline: segment.Timeline, Name: f.name}
	begins.SegmentSize, begins.End = size, fork
	upto := int(fork - segment.Start(size))
	if upto == 0 {
		return &begins, make([]byte, size), nil
	}
	for i := len(history) - 2; i >= 0; i-- {
		parent := pg.Segment{Timeline: history[i].Timeline, Number: segment.Number}.Name(size)
		h, content, err := archive.Fetch(ctx, parent)
		if errors.Is(err, walarchive.ErrNotExist) {
			h, content, err = archive.fetchReceived(ctx, parent, f.tellDamagedPart)
		}
		if err != nil && !errors.Is(err, walarchive.ErrNotExist) {
			return nil, nil, err
		}
		if err == nil && h.End >= fork && len(content) == int(size) {
			clear(content[upto:])
			return &begins, content, nil
		}
		if begin, _, _ := history.Bounds(history[i].Timeline); begin < fork {
			break // the WAL before the fork is its own
		}
	}
	return nil, nil, nil
}

// historyOf is the history of a timeline: the server's own, which it follows, or else the archive's; nil if neither can be read.
func (f *walFetcher) historyOf(ctx context.Context, archive openedArchive, tli pg.Timeline) (pg.History, error) {
	name := tli.HistoryName()
	text, err := os.ReadFile(filepath.Join(f.pgdata, "pg_wal", name))
	if err != nil {
		if _, text, err = archive.Fetch(ctx, name); errors.Is(err, walarchive.ErrNotExist) || errors.Is(err, walarchive.ErrDamaged) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	history, err := walsource.ValidateHistory(name, text)
	if err != nil {
		return nil, nil // PostgreSQL does not follow it
	}
	return history, nil
}

// serverHasMore says whether the segment lies in the data directory already, as a standby had it from its primary or a person has put it there, with WAL behind end. PostgreSQL reads that
// only if the archive has none of the name.
func (f *walFetcher) serverHasMore(end pg.LSN) bool {
	path := filepath.Join(f.pgdata, "pg_wal", f.name)
	there, err := os.Stat(path)
	if err != nil || there.Size() != int64(f.control.WALSegmentSize) {
		return false
	}
	if to, err := os.Stat(f.path); err == nil && os.SameFile(there, to) {
		return false
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	info, _ := walsource.Validate(f.name, content, walsource.ExpectControl(f.control)) // there as far as it can be read
	return info != nil && info.EndOfData > end
}
