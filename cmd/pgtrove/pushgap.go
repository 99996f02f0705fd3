package main

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walahead"
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

// tooMuch says whether the file is to be given up because of err: of an outage. Not of a storage that answers that it is not the one that was meant.
func (p *walPusher) tooMuch(err error) bool {
	outage := errors.Is(err, storage.ErrUnreachable) || errors.Is(err, storage.ErrFull)
	return outage && classify(err).code == codeUnreachable && p.over()
}

// target is where the call archives. Whatever is noted of what was given up is about one target.
func (p *walPusher) target(system pg.SystemID) (t walahead.Target, err error) {
	name, err := p.repositoryName()
	return walahead.Target{Repo: name, Cluster: p.settings.clusterName(), System: system}, err
}

// lately says whether the file is to be given up because an earlier call found a moment ago that this storage does not answer.
func (p *walPusher) lately(system pg.SystemID) bool {
	if p.maxBacklog == 0 || p.control == nil {
		return false
	}
	target, err := p.target(system)
	if err != nil {
		return false
	}
	l, err := walahead.ReadLedger(p.pgdata)
	if err != nil {
		return false
	}
	since := time.Since(l.LastTry(target).At)
	return since >= 0 && since < askAgain && p.over()
}

// giveUp records durably that the file will not be archived, and only then lets the server go on. cause is nil where the storage was not asked.
func (p *walPusher) giveUp(system pg.SystemID, cause error) error {
	target, err := p.target(system)
	if err != nil {
		return err
	}
	waiting, err := p.backlog()
	if err != nil {
		return errors.Join(cause, err)
	}
	now := time.Now().UTC()
	try, said := walahead.Try{Target: target, At: now}, ""
	if cause != nil {
		try.Full, try.Error = errors.Is(cause, storage.ErrFull), p.redact(cause.Error())
		said = try.Error
	}
	err = walahead.ChangeLedger(p.pgdata, func(l *walahead.Ledger) error {
		if cause != nil {
			l.Failed(try)
		} else if last := l.LastTry(target); !last.At.IsZero() {
			try, said = last, "tried "+showDuration(now.Sub(last.At))+" ago"
		} else {
			try.Error = "it did not answer before" // another call found a moment ago that it does
			said = try.Error
		}
		if p.kind != pg.KindSegment {
			l.DropFile(walahead.File{Target: target, Name: p.name, At: now, Limit: p.maxBacklog, Waiting: waiting, Error: try.Error})
			return nil
		}
		seg, err := pg.ParseSegment(p.name, p.expect.SegmentSize)
		if err != nil {
			return err
		}
		l.Drop(walahead.Gap{
			Target: target, SegmentSize: p.expect.SegmentSize, Timeline: seg.Timeline, First: seg.Number,
			From: now, Limit: p.maxBacklog, Waiting: waiting, Error: try.Error,
		})
		return nil
	})
	if err != nil {
		return errors.Join(cause, fmt.Errorf("archive %s: not given up, since that cannot be recorded: %w", p.name, err))
	}
	p.out.warn("%s is NOT archived and given up: the storage %s, and %s or more wait, which is over --max-backlog %s. "+
		"Recovery cannot go past this gap: take a backup when the storage takes it again. (%s)", p.name, whatFailed(try), showBytes(waiting), showBytes(p.maxBacklog), said)
	return nil
}

// whatFailed says in what way the storage took nothing.
func whatFailed(try walahead.Try) string {
	if try.Full {
		return "is full"
	}
	return "cannot be reached"
}
