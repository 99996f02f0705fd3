package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walsource"
)

// bringGaps notes in the archive what was given up of it, now that it can be reached. The call's own file is durable whatever comes of it.
func (p *walPusher) bringGaps(ctx context.Context, archive openedArchive) {
	if p.control == nil {
		return
	}
	if err := p.bring(ctx, archive); err != nil {
		p.out.warn("WAL was given up, and not all of that is noted in the archive yet: %v", err)
	}
}

// bring talks to the storage without the ledger's lock, and then takes out of the ledger, as it is by then, what the archive has or knows.
func (p *walPusher) bring(ctx context.Context, archive openedArchive) error {
	l, err := walahead.ReadLedger(p.pgdata)
	if err != nil || l.Empty() {
		return err
	}
	target, err := p.target(archive.System)
	if err != nil {
		return err
	}
	gaps, files := l.Of(target)
	done, lost, failed := p.rescue(ctx, archive, files)
	notes := gapsToNote(gaps, lost, p.expect.SegmentSize)
	var noted []walahead.Gap
	for _, n := range notes {
		if err := p.note(ctx, archive, n); err != nil {
			failed = append(failed, err)
			continue
		}
		noted, done = append(noted, n.Gap), append(done, n.files...)
	}
	if len(noted)+len(done) > 0 {
		failed = append(failed, walahead.ChangeLedger(p.pgdata, func(now *walahead.Ledger) error {
			now.Answered(l.LastTry(target))
			for _, g := range noted {
				now.Noted(g)
			}
			for _, f := range done {
				now.Forget(f)
			}
			return nil
		}))
	}
	return errors.Join(failed...)
}

// errLost says that a file was given up and is gone.
var errLost = errors.New("it is not in pg_wal any more, and not in the archive")

// rescue archives what is still there of files that were given up. done is archived by now, lost is not there any more, or no such file; what failed
// for another reason stays for the next call.
func (p *walPusher) rescue(ctx context.Context, archive openedArchive, files []walahead.File) (done, lost []walahead.File, failed []error) {
	for _, f := range files {
		file, err := walsource.ReadFile(filepath.Join(filepath.Dir(p.path), f.Name), p.expect)
		facts := walarchive.Facts{}
		if file != nil && file.Info != nil && (err == nil || errors.Is(err, walsource.ErrBroken)) {
			facts, err = p.factsOf(file.Info, err), nil
		}
		unread := err != nil
		if !unread {
			_, err = p.app.push(ctx, archive.Archive, f.Name, file.Data, facts)
		} else if errors.Is(err, fs.ErrNotExist) {
			_, err = archive.Header(ctx, f.Name) // from another host perhaps
			if unread = errors.Is(err, walarchive.ErrNotExist); unread {
				err = errLost
			}
		}
		var io *fs.PathError
		gone := unread && !errors.As(err, &io) || errors.Is(err, walarchive.ErrConflict)
		switch {
		case err == nil:
			done = append(done, f)
		case gone && len(f.Name) > segmentDigits:
			lost = append(lost, f)
		default: // a history file, too: it is of no segment that a note could name, and stays until it is archived from wherever there is one
			failed = append(failed, fmt.Errorf("%s, which was given up: %w", f.Name, err))
		}
	}
	return done, lost, failed
}

// segmentDigits is how long the name of a segment is, with which the names of all other files but histories begin.
const segmentDigits = 24

// gapToNote is a gap, and the files of other kinds that are lost with it.
type gapToNote struct {
	walahead.Gap
	files []walahead.File
}

// gapsToNote gives every lost file to the gap of its segment, or to one of its own.
func gapsToNote(gaps []walahead.Gap, lost []walahead.File, size pg.SegmentSize) (notes []gapToNote) {
	for _, g := range gaps {
		notes = append(notes, gapToNote{Gap: g})
	}
	for _, f := range lost {
		seg, err := pg.ParseSegment(f.Name[:segmentDigits], size)
		if err != nil {
			continue // it stays
		}
		at := slices.IndexFunc(notes, func(n gapToNote) bool {
			return n.SegmentSize == size && n.Timeline == seg.Timeline && n.First <= seg.Number && seg.Number <= n.Last
		})
		if at < 0 {
			at = len(notes)
			notes = append(notes, gapToNote{Gap: walahead.Gap{
				Target: f.Target, SegmentSize: size, Timeline: seg.Timeline, First: seg.Number, Last: seg.Number,
				From: f.At, To: f.At, Limit: f.Limit, Waiting: f.Waiting, Error: f.Error,
			}})
		}
		notes[at].files = append(notes[at].files, f)
	}
	return notes
}

func (p *walPusher) note(ctx context.Context, archive openedArchive, n gapToNote) error {
	host, _ := os.Hostname() // for people
	name := func(number uint64) string {
		return pg.Segment{Timeline: n.Timeline, Number: number}.Name(n.SegmentSize)
	}
	g := walarchive.GapNote{
		First: name(n.First), Last: name(n.Last), Reason: walarchive.ReasonBacklog, Limit: n.Limit, Waiting: n.Waiting,
		From: n.From, To: n.To, Host: host, Error: n.Error,
	}
	for _, f := range n.files {
		g.Files = append(g.Files, f.Name)
	}
	if err := archive.PushGap(ctx, g, n.SegmentSize); err != nil {
		return err
	}
	with := ""
	if len(n.files) > 0 {
		with = ", with " + fileNames(n.files)
	}
	p.out.warn("the archive has a gap, %s to %s%s: given up while the storage could not be reached, or was full; take a backup", g.First, g.Last, with)
	return nil
}

func fileNames(files []walahead.File) string {
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}
