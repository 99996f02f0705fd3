package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walsource"
)

// askAgain is for how long after the storage did not answer files are given up, while too much waits, without asking it: each try takes seconds, and
// the server must be able to give up faster than it writes.
const askAgain = 15 * time.Second

// backlog is how many bytes of WAL wait, at least; it counts no further than it takes to say that it is more than the limit.
func (p *walPusher) backlog() (int64, error) {
	size := int64(p.expect.SegmentSize)
	n, err := walahead.Waiting(filepath.Dir(p.path), int(min(p.maxBacklog/size+2, math.MaxInt32)))
	return int64(n) * size, err
}

// over says whether more waits than is allowed. Where that cannot be told, it is not so.
func (p *walPusher) over() bool {
	if p.maxBacklog == 0 || p.control == nil {
		return false
	}
	waiting, err := p.backlog()
	if err != nil {
		p.out.warn("--max-backlog: %v", err)
	}
	return err == nil && waiting > p.maxBacklog
}

// tooMuch says whether the file is to be given up because of err.
func (p *walPusher) tooMuch(err error) bool {
	return (errors.Is(err, storage.ErrUnreachable) || errors.Is(err, storage.ErrFull)) && p.over()
}

// lately says whether the file is to be given up because an earlier call found a moment ago that the storage does not answer.
func (p *walPusher) lately(system pg.SystemID) bool {
	if p.maxBacklog == 0 || p.control == nil {
		return false
	}
	l, err := walahead.ReadLedger(p.pgdata)
	if err != nil || l.Empty() {
		return false
	}
	since := time.Since(l.Tried)
	return since >= 0 && since < askAgain && p.over()
}

// giveUp records durably that the file will not be archived, and only then lets the server go on. cause is nil where the storage was not asked.
func (p *walPusher) giveUp(system pg.SystemID, cause error) error {
	l, err := walahead.ReadLedger(p.pgdata)
	if err != nil {
		return errors.Join(cause, err)
	}
	waiting, err := p.backlog()
	if err != nil {
		return errors.Join(cause, err)
	}
	repository, err := p.repositoryName()
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	why, said := "it did not answer before", "tried "+showDuration(now.Sub(l.Tried))+" ago"
	if cause != nil {
		why, l.Tried = p.redact(cause.Error()), now
		said = why
	} else if k := len(l.Gaps); k > 0 {
		why = l.Gaps[k-1].Error
	}
	if p.kind == pg.KindSegment {
		seg, err := pg.ParseSegment(p.name, p.expect.SegmentSize)
		if err != nil {
			return fmt.Errorf("archive %s: %w", p.name, err)
		}
		l.Drop(walahead.Gap{
			Repo: repository, Cluster: p.settings.clusterName(), System: system, SegmentSize: p.expect.SegmentSize,
			Timeline: seg.Timeline, First: seg.Number, From: now, Limit: p.maxBacklog, Waiting: waiting, Error: why,
		})
	} else {
		l.DropFile(p.name)
	}
	if err := l.Save(); err != nil {
		return errors.Join(cause, fmt.Errorf("archive %s: not given up, since that cannot be recorded: %w", p.name, err))
	}
	p.out.warn("%s is NOT archived and given up: the storage cannot be reached, and %s or more wait, which is over --max-backlog %s. "+
		"Recovery cannot go past this gap: take a backup when the storage is back. (%s)", p.name, showBytes(waiting), showBytes(p.maxBacklog), said)
	return nil
}

// bringGaps notes in the archive what was given up, now that it can be reached. The call's own file is durable whatever comes of it.
func (p *walPusher) bringGaps(ctx context.Context, archive openedArchive) {
	if p.control == nil {
		return
	}
	l, err := walahead.ReadLedger(p.pgdata)
	if err == nil && l.Empty() {
		return
	}
	if err == nil {
		err = p.bring(ctx, archive, l)
	}
	if err != nil {
		p.out.warn("WAL was given up, and the gap is not yet noted in the archive: %v", err)
	}
}

func (p *walPusher) bring(ctx context.Context, archive openedArchive, l *walahead.Ledger) error {
	repository, err := p.repositoryName()
	if err != nil {
		return err
	}
	host, _ := os.Hostname() // for people
	l.Tried = time.Time{}
	l.Begun = p.rescue(ctx, archive, l.Begun)
	var failed error
	var left []walahead.Gap
	for _, g := range l.Gaps {
		if g.Repo != repository || g.Cluster != archive.Cluster || g.System != archive.System {
			left = append(left, g) // another repository's or cluster name's
			continue
		}
		g.Files = p.rescue(ctx, archive, g.Files)
		name := func(n uint64) string { return pg.Segment{Timeline: g.Timeline, Number: n}.Name(g.SegmentSize) }
		err := archive.PushGap(ctx, walarchive.GapNote{
			First: name(g.First), Last: name(g.Last), Reason: walarchive.ReasonBacklog, Limit: g.Limit, Waiting: g.Waiting,
			From: g.From, To: g.To, Host: host, Error: g.Error, Files: g.Files,
		}, g.SegmentSize)
		if err != nil {
			left, failed = append(left, g), err
			continue
		}
		p.out.warn("the archive has a gap, %s to %s: given up while the storage could not be reached; take a backup", name(g.First), name(g.Last))
	}
	if len(l.Begun) > 0 && len(left) == 0 {
		p.out.warn("given up while the storage could not be reached: %v", l.Begun)
		l.Begun = nil
	}
	l.Gaps = left
	return errors.Join(failed, l.Save())
}

// rescue archives what is still there of files that were given up, and returns the others. The server keeps history files for good.
func (p *walPusher) rescue(ctx context.Context, archive openedArchive, files []string) (lost []string) {
	for _, name := range files {
		f, err := walsource.ReadFile(filepath.Join(filepath.Dir(p.path), name), p.expect)
		if err == nil && f.Info == nil {
			_, err = p.app.push(ctx, archive.Archive, name, f.Data, walarchive.Facts{})
		}
		if err != nil || f.Info != nil {
			lost = append(lost, name)
		}
	}
	return lost
}
