package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walsource"
)

// walKeeper sees to it that the WAL of one backup comes into the repository: by the server's archive_command, or, where
// that does not bring it here, read from the server. It works while the files are copied, because the server keeps a
// segment that it has archived elsewhere, or archives nowhere, for two checkpoints only.
type walKeeper struct {
	run     *backupRun
	backup  *pgsource.Backup
	archive walarchive.Archive
	size    pg.SegmentSize

	include bool       // it is settled that no archiver brings the WAL here
	next    pg.Segment // the first that is not known to be in the repository
	since   time.Time  // when that was first looked for
	pushed  int        // segments read from the server
	held    bool       // the server keeps its WAL for us
	told    time.Time  // when a wait was last spoken of; zero: never
}

const (
	walPoll = time.Second
	// walFollow is how often the server is looked at while files are copied. It costs a query each time.
	walFollow = 200 * time.Millisecond
	// standbyGrace is how long a standby's WAL may take to be archived by its primary, which cannot be asked.
	standbyGrace = 30 * time.Second
	walTellEvery = 30 * time.Second
)

func newWALKeeper(run *backupRun, s *repo.Session, b *pgsource.Backup) *walKeeper {
	info := run.cluster.Info()
	size := info.Layout.WALSegmentSize
	return &walKeeper{
		run: run, backup: b, archive: run.stayingArchive(s), size: size,
		next: pg.SegmentOf(b.Timeline, b.StartLSN, size), since: time.Now(),
	}
}

// reads says whether the keeper may read WAL from the server.
func (k *walKeeper) reads() bool { return k.run.o.wal == walAuto || k.run.o.wal == walInclude }

// during follows the server until taken is closed.
func (k *walKeeper) during(ctx context.Context, taken <-chan struct{}) error {
	if !k.reads() {
		return nil
	}
	if err := k.decide(ctx); err != nil {
		return err
	}
	ticker := time.NewTicker(walFollow)
	defer ticker.Stop()
	for {
		for {
			settled, err := k.settle(ctx, k.next, false)
			if err != nil {
				return err
			}
			if !settled {
				break
			}
			k.next, k.since = k.next.Next(), time.Now()
			if k.held {
				if err := k.run.cluster.ReleaseWAL(ctx, k.next.Start(k.size)); err != nil {
					return err
				}
			}
		}
		select {
		case <-taken:
			return nil
		case <-ctx.Done():
			return nil // somebody else knows why
		case <-ticker.C:
		}
	}
}

// after waits for, or brings, what is still missing up to the stop, and says how the snapshot's WAL stands.
func (k *walKeeper) after(ctx context.Context, stop *pgsource.StopInfo) (snapshot.WALState, error) {
	var err error
	switch {
	case k.run.o.wal == walNone:
		k.run.walNote = "not waited for, unproven"
		return snapshot.WALUnproven, nil
	case k.reads():
		err = k.bring(ctx, stop)
	default:
		err = k.archive.WaitComplete(ctx, k.size, stop.StartLSN, stop.StopLSN, stop.StopTimeline,
			walarchive.Wait{Timeout: k.run.o.walTimeout, Poll: walPoll, Missing: func(_ uint64, first string) { k.tell(ctx, first) }})
	}
	if err == nil { // prove it
		err = k.archive.WaitComplete(ctx, k.size, stop.StartLSN, stop.StopLSN, stop.StopTimeline, walarchive.Wait{})
	}
	var missing *walarchive.IncompleteError
	switch {
	case errors.As(err, &missing):
		k.run.walNote = fmt.Sprintf("%s of WAL did not come into the repository, the first is %s",
			showCount(int64(missing.Count()), "segment", "segments"), missing.Names(1)[0])
		return snapshot.WALMissing, nil
	case err != nil:
		return "", err
	}
	k.run.walNote = "complete, archived by the server"
	if k.pushed > 0 {
		k.run.walNote = "complete, " + showCount(int64(k.pushed), "segment", "segments") + " read from the server"
	}
	return snapshot.WALComplete, nil
}

// bring settles every segment up to the stop, or gives up when the time is over.
func (k *walKeeper) bring(ctx context.Context, stop *pgsource.StopInfo) error {
	if err := k.bringHistory(ctx, stop.StopTimeline); err != nil {
		return err
	}
	segments, err := k.segments(ctx, stop)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(k.run.o.walTimeout)
	for _, seg := range segments {
		if seg.Timeline == k.next.Timeline && seg.Number < k.next.Number {
			continue
		}
		k.since = time.Now()
		for {
			here, err := k.has(ctx, seg.Name(k.size))
			if err != nil {
				return err
			}
			late := time.Now().After(deadline)
			if !here {
				here, err = k.settle(ctx, seg, late)
			}
			if err != nil {
				return err
			}
			if here || late {
				break
			}
			k.tell(ctx, seg.Name(k.size))
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for WAL segment %s: %w", seg.Name(k.size), context.Cause(ctx))
			case <-time.After(walPoll):
			}
		}
	}
	return nil
}

// segments are those that replay from start to stop needs.
func (k *walKeeper) segments(ctx context.Context, stop *pgsource.StopInfo) ([]pg.Segment, error) {
	if stop.Timeline != stop.StopTimeline { // a standby that followed its primary: the history file leads the way
		c, err := k.archive.Scan(ctx, k.size)
		if err != nil {
			return nil, err
		}
		return c.PathTo(stop.StopTimeline).Segments(stop.StartLSN, stop.StopLSN), nil
	}
	var all []pg.Segment
	last := pg.SegmentBefore(stop.StopTimeline, stop.StopLSN, k.size)
	for s := pg.SegmentOf(stop.Timeline, stop.StartLSN, k.size); s.Number <= last.Number; s = s.Next() {
		all = append(all, s)
	}
	return all, nil
}

// bringHistory stores the history file of the stop's timeline: without it nobody finds the way there.
func (k *walKeeper) bringHistory(ctx context.Context, tli pg.Timeline) error {
	if tli == 1 {
		return nil
	}
	_, err := k.archive.Header(ctx, tli.HistoryName())
	if !errors.Is(err, walarchive.ErrNotExist) {
		return err
	}
	text, err := k.run.cluster.HistoryFile(tli)
	if errors.Is(err, fs.ErrNotExist) {
		k.run.out.warn("the server has no history of timeline %d, and neither has the repository", uint32(tli))
		return nil
	}
	if err != nil {
		return err
	}
	_, err = k.archive.Push(ctx, tli.HistoryName(), text, walarchive.Facts{})
	return err
}

// settle says whether the segment needs no more care: it is in the repository, or was brought there, or is gone for
// good. late includes it wherever the server archives to. Asking the server comes before asking the repository, which
// may be far away.
func (k *walKeeper) settle(ctx context.Context, seg pg.Segment, late bool) (bool, error) {
	name := seg.Name(k.size)
	if !k.include {
		if !late {
			past, err := k.pastArchiver(ctx, seg)
			if !past || err != nil {
				return false, err
			}
		}
		if here, err := k.has(ctx, name); here || err != nil {
			return here, err
		}
		k.include = true // what comes is read as soon as it is complete, before the server can remove it
	}
	content, err := k.run.cluster.WALSegment(ctx, seg)
	switch {
	case errors.Is(err, pgsource.ErrSegmentIncomplete):
		return false, nil
	case errors.Is(err, pgsource.ErrSegmentRemoved):
		return k.lost(ctx, name)
	case err != nil:
		return false, err
	}
	if late && k.run.cluster.Info().Archives() {
		k.run.out.warn("the server's archiver did not bring WAL segment %s in %s; it is read from the server instead", name, k.run.o.walTimeout)
	}
	facts, err := k.run.judgeSegment(name, content, k.expect())
	if err != nil {
		return false, err
	}
	same, err := k.run.push(ctx, k.archive, name, content, facts)
	if err == nil && !same {
		k.pushed++
	}
	return err == nil, err
}

// decide looks for signs, before there is any WAL of the backup, that none is archived here: the server archives nowhere, or
// the last file that its archiver dealt with is not in the repository. That it is there proves nothing, because an earlier
// backup may have read it from the server. If the server was told to archive here only since then, nothing is lost by bringing
// the WAL as well: the archiver finds the same content, and succeeds.
func (k *walKeeper) decide(ctx context.Context) error {
	switch {
	case k.run.o.wal == walInclude:
		k.include = true
		return nil
	case !k.run.cluster.Info().Archives():
		k.include = !k.backup.Standby // a standby's WAL is archived by its primary
		return nil
	}
	status, err := k.run.cluster.ArchiverStatus(ctx)
	if err != nil {
		return err
	}
	if _, err := walarchive.ParseName(status.LastArchived); err != nil {
		return nil // nothing yet
	}
	here, err := k.has(ctx, status.LastArchived)
	k.include = err == nil && !here
	return err
}

// lost is the end of a segment that the server has removed, unless it came into the repository in the last moment.
func (k *walKeeper) lost(ctx context.Context, name string) (bool, error) {
	here, err := k.has(ctx, name)
	if err == nil && !here {
		k.run.out.warn("WAL segment %s is not in the repository, and the server has removed it", name)
	}
	return true, err
}

func (k *walKeeper) expect() walsource.Expect {
	info := k.run.cluster.Info()
	return walsource.Expect{SystemID: info.SystemID, SegmentSize: k.size, BlockSize: uint32(info.Layout.WALBlockSize)}
}

func (k *walKeeper) has(ctx context.Context, name string) (bool, error) {
	_, err := k.archive.Header(ctx, name)
	if errors.Is(err, walarchive.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// pastArchiver says whether the segment must be here by now if it is ever to be brought by an archiver. It judges by what
// the server does, not by what its archive_command looks like.
func (k *walKeeper) pastArchiver(ctx context.Context, seg pg.Segment) (bool, error) {
	if !k.run.cluster.Info().Archives() {
		return time.Since(k.since) > standbyGrace, nil
	}
	status, err := k.run.cluster.ArchiverStatus(ctx)
	if err != nil {
		return false, err
	}
	last, err := pg.WALFileSegment(status.LastArchived, k.size)
	if err != nil {
		return false, nil // nothing yet, or a history file
	}
	return last.Timeline > seg.Timeline || last.Timeline == seg.Timeline && last.Number >= seg.Number, nil
}

// tell says now and then what is waited for, and what seems to be wrong.
func (k *walKeeper) tell(ctx context.Context, name string) {
	if time.Since(k.told) < walTellEvery {
		return
	}
	k.told = time.Now()
	text := fmt.Sprintf("waiting for WAL segment %s", name)
	if k.backup.Standby {
		k.run.out.info("%s: the primary finishes and archives it; `SELECT pg_switch_wal()` there makes it at once", text)
		return
	}
	status, err := k.run.cluster.ArchiverStatus(ctx)
	if err == nil && status.FailedTime.After(status.LastTime) {
		k.run.out.warn("%s: the server's archiver failed with %s at %s; see the server's log", text, status.LastFailed, showTime(status.FailedTime))
		return
	}
	k.run.out.info("%s", text)
}
