package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
	"github.com/pgtrove/pgtrove/walsource"
)

func newWALPushCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "push PATH",
		Short: "Archive a WAL file: archive_command = 'pgtrove wal push %p'",
		Long: `Store the WAL file at PATH in the repository. PostgreSQL runs it:

  archive_command = 'pgtrove wal push %p'

Exit code 0 means that the file is durable in the repository. Pushing the same file again succeeds; a file of the same
name with other content is refused, and what is stored stays. A segment is checked before: it must be complete, of this
cluster, and what its name says.

The cluster is recognised by global/pg_control in the working directory, where PostgreSQL runs the command.`,
		Args: exactly("PATH"),
	}
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.walPush(ctx, args[0]) })
	return c
}

// errNoWALFile says that wal push was given a path at which there is nothing.
var errNoWALFile = errors.New("no such file")

func (a *app) walPush(ctx context.Context, path string) error {
	name := filepath.Base(path)
	kind, err := pg.ClassifyWALFile(name)
	if err != nil {
		return usageError{err: fmt.Errorf("archive %s: not the name of a WAL file", name), command: "pgtrove wal push"}
	}
	control, err := a.controlOf(path)
	ofSegment := kind == pg.KindSegment || kind == pg.KindPartial
	if err != nil && !(ofSegment && errors.Is(err, errNoDataDirectory)) { // a segment says itself whose it is
		return fmt.Errorf("archive %s: %w", name, err)
	}
	var expect walsource.Expect
	if control != nil {
		expect = walsource.ExpectControl(control)
	}
	file, err := walsource.ReadFile(path, expect)
	broken := file != nil && errors.Is(err, walsource.ErrBroken)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("archive %s: %w", name, classified{err, errNoWALFile})
	case err != nil && !broken:
		return fmt.Errorf("archive %w", err)
	}
	facts, system := walarchive.Facts{}, expect.SystemID
	if file.Info != nil {
		facts, system = a.factsOf(file.Info, err), file.Info.SystemID
	}
	return a.withArchive(ctx, "archive "+name, system, func(archive walarchive.Archive) error {
		_, err := a.push(ctx, archive, name, file.Data, facts)
		return err
	})
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
