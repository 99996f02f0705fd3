package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walarchive"
)

// archiving says whether the WAL that the server writes comes into the repository.
func (c *checkup) archiving(ctx context.Context) error {
	slots, err := c.cluster.Slots(ctx)
	if err != nil {
		return err
	}
	i := c.cluster.Info()
	t := &walTrip{
		checkup: c, archive: archiveKey{c.name, i.SystemID}.in(c.repo), archives: i.Archives(),
		receives: slices.ContainsFunc(slots, func(s pgsource.Slot) bool { return s.Active && s.Receives(c.slot) }),
	}
	if t.before, err = c.cluster.ArchiverStatus(ctx); err != nil {
		return err
	}
	switch {
	case i.InRecovery:
		err = t.onStandby(ctx)
	case t.archives || t.receives:
		err = t.onPrimary(ctx)
	default:
		c.archivesNowhere()
	}
	if err != nil {
		return err
	}
	c.slots(slots)
	return c.givenUp()
}

// archivesNowhere says why no WAL comes.
func (c *checkup) archivesNowhere() {
	const receive = "; or let `pgtrove wal receive` run (where it has a slot of another name, --slot says so)"
	mode := c.cluster.Info().WAL.ArchiveMode
	if mode == "off" {
		c.add("archiving", statusProblem, "set archive_mode = on and archive_command = 'pgtrove wal push %p', and restart the server"+receive,
			"the server archives no WAL, so only the moments of snapshots can be recovered")
		return
	}
	c.add("archiving", statusProblem, "set archive_command = 'pgtrove wal push %p' and reload"+receive,
		"archive_mode is %s, but the server has no archive_command: it keeps all its WAL until it has one, and only the moments of snapshots can be recovered", mode)
}

// givenUp tells what wal push --max-backlog gave up and could not yet note in the repository.
func (c *checkup) givenUp() error {
	l, err := walahead.ReadLedger(c.cluster.DataDir())
	if errors.Is(err, walahead.ErrLedger) {
		c.add("gaps", statusProblem, "keep the file: it says which WAL is missing", "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, g := range l.Gaps {
		first, last := pg.Segment{Timeline: g.Timeline, Number: g.First}, pg.Segment{Timeline: g.Timeline, Number: g.Last}
		c.add("gaps", statusProblem, "take a backup when archiving works again",
			"%s to %s were dropped by wal push --max-backlog, %s to %s, and that is not yet noted in %s, cluster %s (%s)",
			first.Name(g.SegmentSize), last.Name(g.SegmentSize), showTime(g.From), showTime(g.To), g.Repo, g.Cluster, g.Error)
	}
	for _, f := range l.Files {
		c.add("gaps", statusProblem, "the next `pgtrove wal push` that reaches that repository archives it, if it is still in pg_wal; else archive it from where it is still there",
			"%s was dropped by wal push --max-backlog, %s, and is not yet archived in %s, cluster %s (%s)", f.Name, showTime(f.At), f.Repo, f.Cluster, f.Error)
	}
	return nil
}

// walTrip follows one segment from the server into the repository.
type walTrip struct {
	*checkup
	archive  walarchive.Archive
	archives bool // the server has an archive_command or archive_library that it uses
	receives bool // a receiver is connected
	before   pgsource.ArchiverStatus

	seg   pg.Segment
	file  string // its name
	begun time.Time
	now   pgsource.ArchiverStatus
}

const (
	tripPause    = 50 * time.Millisecond // between the first looks
	tripMaxPause = 2 * time.Second
	tripTell     = 3 * time.Second // after which a person is told what is waited for
	// archiverTries is how often the server's archiver runs its command for one file before it rests (NUM_ARCHIVE_RETRIES in pgarch.c).
	archiverTries = 3
	// standbyRests is how long after a failure it must be resting: between those tries it pauses for a second.
	standbyRests = 5 * time.Second
)

// onPrimary forces a segment and waits for it.
func (t *walTrip) onPrimary(ctx context.Context) error {
	seg, err := t.cluster.ForceSegment(ctx)
	var lacks *pgsource.PrivilegeError
	if errors.As(err, &lacks) {
		t.add("archiving", statusAdvice, fmt.Sprintf("as a superuser, in database %q: %s", lacks.Database, strings.Join(lacks.Missing, " ")),
			"no segment can be forced through the archive, since role %q may not", lacks.Role)
		return t.lookBack(ctx)
	}
	if err != nil {
		return err
	}
	t.follow(seg)
	come, err := t.wait(ctx)
	if err != nil {
		return err
	}
	if !come {
		return t.explain(ctx)
	}
	took := time.Since(t.begun)
	if foreign, err := t.foreign(ctx, t.seg); foreign || err != nil {
		return err
	}
	t.ok("archiving", "segment %s, ended for this check, was in the repository after %s", t.file, showDuration(took))
	return nil
}

// foreign says, and tells, that the repository has something else under the name of a segment than the server. What the server has removed already is not compared.
func (t *walTrip) foreign(ctx context.Context, seg pg.Segment) (bool, error) {
	content, err := t.cluster.WALSegment(ctx, seg)
	if errors.Is(err, pgsource.ErrSegmentRemoved) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	file := seg.Name(t.cluster.Info().Layout.WALSegmentSize)
	same, err := t.repo.SameArchive(ctx, t.archive.Key(walarchive.Name{Kind: walarchive.Segment, Timeline: seg.Timeline, File: file}), content)
	if err != nil || same {
		return false, err
	}
	t.add("archiving", statusProblem, "give each server a cluster name of its own (--cluster); where this one was set back, restore it with `pgtrove restore` instead, so that it begins a timeline of its own",
		"the repository has other content under the name of segment %s than this server: another server archives as cluster %s, or this one was set back to an earlier state, and nothing that it writes now can be recovered",
		file, t.name)
	return true, nil
}

// onStandby looks for the newest segment that is there in full.
func (t *walTrip) onStandby(ctx context.Context) error {
	seg, err := t.cluster.LastSegment(ctx)
	if err != nil {
		return err
	}
	t.follow(seg)
	come, err := t.wait(ctx)
	const what = "this is a standby, where no segment can be ended"
	switch {
	case err != nil:
		return err
	case !come && t.archives:
		return t.explain(ctx)
	case !come:
		t.add("archiving", statusProblem, "run `pgtrove check` at the primary, which archives",
			"%s; the newest that it has in full, %s, is not in the repository", what, t.file)
		return nil
	}
	if foreign, err := t.foreign(ctx, seg); foreign || err != nil {
		return err
	}
	t.ok("archiving", "%s; the newest that it has in full, %s, is in the repository", what, t.file)
	return nil
}

func (t *walTrip) follow(seg pg.Segment) {
	t.seg, t.file, t.begun = seg, seg.Name(t.cluster.Info().Layout.WALSegmentSize), time.Now()
}

// wait says whether the segment came. It ends early where it is certain that it does not come now.
func (t *walTrip) wait(ctx context.Context) (come bool, err error) {
	pause, told := tripPause, false
	for {
		come, over, err := t.look(ctx)
		if err != nil || come || over {
			return come, err
		}
		waited := time.Since(t.begun)
		if waited >= t.walTimeout {
			return false, nil
		}
		if !told && waited >= tripTell {
			told = true
			t.out.info("waiting for WAL segment %s, for %s at most", t.file, showDuration(t.walTimeout))
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait for WAL segment %s: %w", t.file, context.Cause(ctx))
		case <-time.After(min(pause, t.walTimeout-waited)):
		}
		pause = min(pause*3/2, tripMaxPause)
	}
}

// look says whether the segment has come, and whether it is of no use to wait any longer. That a primary's archiver has done its part is
// demanded too: a segment of that name may be another server's.
func (t *walTrip) look(ctx context.Context) (come, over bool, err error) {
	// The server first: what it says is archived was there before we look.
	if t.now, err = t.cluster.ArchiverStatus(ctx); err != nil {
		return false, false, err
	}
	past := t.past()
	here, err := t.has(ctx, t.file)
	if err != nil {
		return false, false, err
	}
	standby := t.cluster.Info().InRecovery
	switch {
	case here && (past || !t.archives || standby && !t.now.Failing()):
		return true, false, nil
	case t.archives && past && !t.receives: // archived elsewhere
		return false, true, nil
	case t.archives && t.now.Failed-t.before.Failed >= archiverTries && t.now.Archived == t.before.Archived:
		return false, true, nil
	case standby && t.archives && t.now.Failing() && time.Since(t.now.FailedTime) > standbyRests: // nothing that we do makes it try again
		return false, true, nil
	}
	return false, false, nil
}

// past says whether the server takes the segment for archived.
func (t *walTrip) past() bool {
	ready, done := t.cluster.ArchiveMark(t.file)
	last, err := pg.WALFileSegment(t.now.LastArchived, t.cluster.Info().Layout.WALSegmentSize)
	later := err == nil && (last.Timeline > t.seg.Timeline || last.Timeline == t.seg.Timeline && last.Number >= t.seg.Number)
	return done || later && !ready
}

func (t *walTrip) has(ctx context.Context, name string) (bool, error) {
	_, err := t.archive.Header(ctx, name)
	if errors.Is(err, walarchive.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// lookBack judges by what was archived before, where no segment can be forced.
func (t *walTrip) lookBack(ctx context.Context) error {
	last := t.before.LastArchived
	switch {
	case !t.archives:
		return nil
	case t.before.Failing():
		t.now = t.before
		return t.fails(ctx)
	case last == "":
		t.add("archiving", statusAdvice, "", "archive_command is set, but nothing was archived yet")
		return nil
	}
	here, err := t.has(ctx, last)
	switch {
	case err != nil:
		return err
	case !here:
		t.elsewhere(last)
		return nil
	}
	if seg, err := pg.ParseSegment(last, t.cluster.Info().Layout.WALSegmentSize); err == nil {
		if foreign, err := t.foreign(ctx, seg); foreign || err != nil {
			return err
		}
	}
	t.ok("archiving", "the last file that was archived, %s, %s ago, is in the repository", last, showDuration(time.Since(t.before.LastTime)))
	return nil
}

// explain says why the segment did not come.
func (t *walTrip) explain(ctx context.Context) error {
	if !t.archives {
		t.add("archiving", statusProblem, "the output of `pgtrove wal receive` says why", "segment %s did not come in %s, though a receiver is connected",
			t.file, showDuration(time.Since(t.begun)))
		return nil
	}
	switch {
	case t.past():
		t.elsewhere(t.file)
		return nil
	case t.now.Failing() && (t.now.Failed > t.before.Failed || t.cluster.Info().InRecovery):
		return t.fails(ctx)
	}
	absent, err := t.cluster.ArchiverAbsent(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("segment %s did not come in %s", t.file, showDuration(time.Since(t.begun)))
	if absent {
		t.add("archiving", statusProblem, "the server's log says why it ends", "%s: no archiver process runs, though archive_mode is %s%s",
			text, t.cluster.Info().WAL.ArchiveMode, t.both())
		return nil
	}
	w, err := t.cluster.WaitingWAL()
	switch {
	case err != nil:
		t.add("archiving", statusProblem, "", "%s, by %s; %v", text, t.how(), err)
	case w.Files > 0:
		pace := "it has not finished one meanwhile"
		if n := t.now.Archived - t.before.Archived; n > 0 {
			pace = showCount(n, "file was", "files were") + " archived meanwhile"
		} else if t.now.Failing() {
			pace = fmt.Sprintf("the last that it finished failed, %s ago", showDuration(time.Since(t.now.FailedTime)))
		}
		t.add("archiving", statusProblem, "where it never catches up, see how long one call takes in the server's log; `pgtrove wal push` takes --jobs",
			"%s: the archiver is behind, %s, the first %s since %s ago; %s, by %s", text,
			showCount(int64(w.Files), "file waits", "files wait"), w.First, showDuration(time.Since(w.Since)), pace, t.how())
	default:
		t.add("archiving", statusProblem, "the server's log may say why", "%s, and nothing waits for the archiver (%s)", text, t.how())
	}
	return nil
}

// fails tells of an archive_command that does not succeed.
func (t *walTrip) fails(ctx context.Context) error {
	failed := t.now.LastFailed
	here, err := t.has(ctx, failed)
	if err != nil && !errors.Is(err, walarchive.ErrInvalid) {
		return err
	}
	hint := "the server's log has what it said"
	if run := t.runs(failed); run != "" {
		hint += "; or run it as the server does: " + run
	}
	text := fmt.Sprintf("archiving fails: %s, %s ago, by %s", failed, showDuration(time.Since(t.now.FailedTime)), t.how())
	if here {
		text += "; the repository has a file of that name, so another server may archive under the same cluster name"
	}
	t.add("archiving", statusProblem, hint, "%s", text)
	return nil
}

// elsewhere tells of a file that the server takes for archived and that is not here.
func (t *walTrip) elsewhere(name string) {
	t.add("archiving", statusProblem, "compare the repository and the cluster name that archive_command has (--repo, --cluster, PGTROVE_REPO, "+
		"PGTROVE_CLUSTER, /etc/pgtrove/pgtrove.toml) with those of this check",
		"WAL is archived elsewhere: the server takes %s for archived, by %s, and cluster %s of this repository does not have it", name, t.how(), t.name)
}

// how names what archives, as the server is told.
func (t *walTrip) how() string {
	w := t.cluster.Info().WAL
	if w.ArchiveLibrary != "" {
		return fmt.Sprintf("archive_library = %q", w.ArchiveLibrary)
	}
	return fmt.Sprintf("%q", w.ArchiveCommand)
}

// both says so where the server is told two ways to archive, which it refuses from 16 on.
func (t *walTrip) both() string {
	w := t.cluster.Info().WAL
	if w.ArchiveLibrary == "" {
		return ""
	}
	if w.ArchiveCommand != "" {
		return ", by archive_library and archive_command, of which only one may be set"
	}
	return fmt.Sprintf(", by archive_library = %q", w.ArchiveLibrary)
}

// runs is a line for a shell that does what the archiver does with a file; "" where a library archives.
func (t *walTrip) runs(name string) string {
	w := t.cluster.Info().WAL
	if w.ArchiveLibrary != "" || name == "" {
		return ""
	}
	command := strings.NewReplacer("%%", "%", "%p", "pg_wal/"+name, "%f", name).Replace(w.ArchiveCommand)
	return "cd " + shellQuote(t.cluster.DataDir()) + " && " + command
}
