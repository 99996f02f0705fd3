package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walsource"
)

// pushOptions are the flags of wal push.
type pushOptions struct {
	ahead      int   // segments
	maxBacklog int64 // bytes; 0: nothing is dropped
}

func newWALPushCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "push PATH",
		Short: "Archive a WAL file: archive_command = 'pgtrove wal push %p'",
		Long: `Store the WAL file at PATH in the repository. PostgreSQL runs it:

  archive_command = 'pgtrove wal push %p'

Exit code 0 means that the file is durable in the repository. Pushing the same file again succeeds; a file of the same
name with other content is refused, and what is stored stays. A segment is checked before: it must be complete, of this
cluster, and what its name says.

The segments that wait behind it are pushed at the same time (--ahead, --jobs), so that the calls for them return at once.
The exit code is about PATH alone.

With --max-backlog a storage that cannot be reached does not fill the server's disk: where more WAL than that waits, PATH is
given up, with a warning and exit code 0. The gap is recorded in the data directory, and in the repository as soon as it
can be reached: ` + "`pgtrove check`, `info` and `wal list`" + ` show it. Take a backup then: recovery cannot go past a gap.

The cluster is recognised by global/pg_control in the working directory, where PostgreSQL runs the command. PostgreSQL
tries again by itself, so storage that does not answer is tried for 10s only, unless --retry-time says otherwise.`,
		Args: exactly("PATH"),
	}
	ahead := c.Flags().Int("ahead", 32, "push up to `number` segments that wait behind PATH along with it; 0: none")
	backlog := c.Flags().String("max-backlog", "", "give PATH up where the storage cannot be reached and more than `size` of WAL waits, such as 50GB (default: never)")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		o := pushOptions{ahead: *ahead}
		if o.ahead < 0 || o.ahead > maxAhead {
			return usageError{err: fmt.Errorf("ahead %d: give a number from 0 to %d", o.ahead, maxAhead), command: "pgtrove wal push"}
		}
		if *backlog != "" {
			var err error
			if o.maxBacklog, err = parseSize(*backlog); err != nil || o.maxBacklog == 0 {
				return usageError{err: fmt.Errorf("max-backlog %q: give a size such as 50GB", *backlog), command: "pgtrove wal push"}
			}
		}
		a.settings.Storage.retryByDefault(serverRetryTime)
		return a.walPush(ctx, args[0], o)
	})
	return c
}

// errNoWALFile says that wal push was given a path at which there is nothing.
var errNoWALFile = errors.New("no such file")

// walPusher is one call of wal push.
type walPusher struct {
	*app
	pushOptions
	path, name string
	kind       pg.FileKind
	control    *pg.Control // nil: not found, and then nothing is done ahead
	pgdata     string
	expect     walsource.Expect
}

func (a *app) walPush(ctx context.Context, path string, o pushOptions) error {
	p := &walPusher{app: a, pushOptions: o, path: path, name: filepath.Base(path)}
	var err error
	if p.kind, err = pg.ClassifyWALFile(p.name); err != nil {
		return usageError{err: fmt.Errorf("archive %s: not the name of a WAL file", p.name), command: "pgtrove wal push"}
	}
	p.control, p.pgdata, err = a.controlOf(path)
	ofSegment := p.kind == pg.KindSegment || p.kind == pg.KindPartial
	if err != nil && !(ofSegment && errors.Is(err, errNoDataDirectory)) { // a segment says itself whose it is
		return fmt.Errorf("archive %s: %w", p.name, err)
	}
	if p.control != nil {
		p.expect = walsource.ExpectControl(p.control)
	}
	if p.gaveUpStopping() {
		return p.stopped("and the storage did not answer a moment ago")
	}
	ctx, done := p.untilStopped(ctx)
	defer done()
	known, outage := p.known(ctx)
	if known {
		a.out.detail("%s was archived before its turn", p.name)
		return nil
	}
	file, err := walsource.ReadFile(path, p.expect)
	broken := file != nil && errors.Is(err, walsource.ErrBroken)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("archive %s: %w", p.name, classified{err, errNoWALFile})
	case err != nil && !broken:
		return fmt.Errorf("archive %w", err)
	}
	facts, system := walarchive.Facts{}, p.expect.SystemID
	if file.Info != nil {
		facts, system = a.factsOf(file.Info, err), file.Info.SystemID
	}
	if p.lately(system) {
		return p.giveUp(system, nil)
	}
	if err = outage; err == nil {
		err = a.withArchive(ctx, "archive "+p.name, system, func(archive openedArchive) error {
			return p.push(ctx, archive, file.Data, facts)
		})
	}
	if err != nil && ctx.Err() == nil && p.tooMuch(err) {
		return p.giveUp(system, err)
	}
	return p.leave(ctx, err)
}

// push stores the file, and others ahead. They begin only when the file is durable: where the archive has another server's segment of its name,
// nothing that follows it on this server may get ahead of that server's.
func (p *walPusher) push(ctx context.Context, archive openedArchive, content []byte, facts walarchive.Facts) error {
	begun := time.Now()
	same, err := p.app.push(ctx, archive.Archive, p.name, content, facts)
	if err != nil {
		return err
	}
	ahead := p.beginAhead(ctx, archive, same, time.Since(begun))
	p.bringGaps(ctx, archive)
	ahead.wait()
	return nil
}

// judgeSegment makes sure that a segment read from the server is what it should be.
func (a *app) judgeSegment(name string, content []byte, expect walsource.Expect) (walarchive.Facts, error) {
	info, err := walsource.Validate(name, content, expect)
	if err != nil && !(errors.Is(err, walsource.ErrBroken) && info != nil) {
		return walarchive.Facts{}, fmt.Errorf("archive %w", err)
	}
	return a.factsOf(info, err), nil
}

// factsOf is what recovery wants to know of a segment beforehand. WAL whose records are damaged is stored all the same,
// with a warning: it does not get better by being refused, and an archiver that stops fills the server's disk.
func (a *app) factsOf(info *walsource.Info, broken error) walarchive.Facts {
	if broken != nil {
		a.out.warn("%v; it is archived as it is, but recovery cannot go past it: take a new backup", broken)
	}
	facts := walarchive.Facts{
		SegmentSize: info.SegmentSize, Major: info.Major,
		FirstCommit: info.FirstCommit, LastCommit: info.LastCommit, MinXID: info.MinXID, MaxXID: info.MaxXID,
		End:    info.EndOfData,
		Broken: broken != nil, Unsure: info.HeadUnread || info.Unknown > 0,
		FullPageWritesOff: info.FullPageWritesOff,
	}
	for _, p := range info.RestorePoints {
		facts.RestorePoints = append(facts.RestorePoints, walarchive.RestorePoint(p))
	}
	return facts
}

// push stores a file; same says that it was there before, with the same content.
func (a *app) push(ctx context.Context, archive walarchive.Archive, name string, content []byte, facts walarchive.Facts) (same bool, err error) {
	same, err = archive.Push(ctx, name, content, facts)
	switch {
	case err != nil:
	case same:
		a.out.detail("%s was archived before, with the same content", name)
	default:
		a.out.detail("archived %s, %s", name, showBytes(int64(len(content))))
	}
	return same, err
}
