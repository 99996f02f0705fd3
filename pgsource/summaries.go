package pgsource

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// summaryFunctions are what Changes calls. PostgreSQL lets everybody call them (system_functions.sql takes nothing from PUBLIC).
func summaryFunctions() []string {
	return []string{
		"pg_get_wal_summarizer_state()",
		"pg_available_wal_summaries()",
		"pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)",
	}
}

// summarizerPatience is how long the summarizer may do nothing before it counts as stuck: six cycles of ten seconds in
// WaitForWalSummarization (walsummarizer.c). It may sleep for 30 s, but each checkpoint, ours among them, wakes it.
const (
	summarizerPatience = time.Minute
	summarizerPause    = 100 * time.Millisecond
)

// Changes asks a server of 17 or later with summarize_wal on which blocks its WAL changed since parent started: what is not among
// them is in parent as it is here. It waits for the summarizer to get to this backup's start, as long as it makes progress.
//
// It says nothing of what did not go through the WAL of this server; Vouch does, call it first. And what PostgreSQL itself changes in
// a page without WAL is not among them, though the bytes differ: hint bits where neither checksums nor wal_log_hints are on, the
// cache in the first page of an SP-GiST index, the header of a page that was added and is empty. No standby ever has those, and a
// crash may take them, so a snapshot with the page as it was before is right.
//
// Errors: ErrNoSummaries, with the reason, and with a *PrivilegeError in it where a grant is missing; ErrConnectionLost; ctx's.
func (b *Backup) Changes(ctx context.Context, parent *snapshot.Manifest) (*Changes, error) {
	return b.changes(ctx, parent, summarizerPatience)
}

func (b *Backup) changes(ctx context.Context, parent *snapshot.Manifest, patience time.Duration) (*Changes, error) {
	parts, err := b.parts(parent)
	if err != nil {
		return nil, err
	}
	if err := b.canSummarize(ctx); err != nil {
		return nil, err
	}
	if len(parts) > 0 {
		if err := b.waitSummarized(ctx, patience); err != nil {
			return nil, err
		}
	}
	summaries, err := b.coveringSummaries(ctx, parts)
	if err != nil {
		return nil, err
	}
	changes := newChanges()
	for _, s := range summaries {
		if err := b.readSummary(ctx, s, changes); err != nil {
			return nil, err
		}
	}
	changes.done()
	return changes, nil
}

func noSummaries(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrNoSummaries}, args...)...)
}

// stretch is WAL of one timeline.
type stretch struct {
	timeline pg.Timeline
	from, to pg.LSN
}

func (s stretch) String() string {
	return fmt.Sprintf("%s to %s on timeline %d", s.from, s.to, uint32(s.timeline))
}

// parts are the stretches of WAL from parent's start to ours along our history. PrepareForIncrementalBackup (basebackup_incremental.c)
// goes the same way: from the start, since parent's pages were read any time after it.
func (b *Backup) parts(parent *snapshot.Manifest) ([]stretch, error) {
	history, err := b.history()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoSummaries, err)
	}
	w := parent.Window
	if !history.Contains(w.Timeline, w.StartLSN) || w.StartLSN > b.StartLSN {
		return nil, noSummaries("%s of timeline %d is not in the past of %s of timeline %d", w.StartLSN, uint32(w.Timeline),
			b.StartLSN, uint32(b.Timeline))
	}
	var parts []stretch
	var begin pg.LSN
	for _, s := range history {
		if p := (stretch{s.Timeline, max(begin, w.StartLSN), min(s.LSN, b.StartLSN)}); p.from < p.to {
			parts = append(parts, p)
		}
		begin = s.LSN
	}
	return parts, nil
}

// canSummarize makes sure that there can be summaries, and that we may read them.
func (b *Backup) canSummarize(ctx context.Context) error {
	if b.c.info.Major() < 17 {
		return noSummaries("PostgreSQL %d has none", b.c.info.Major())
	}
	if !b.c.info.WAL.SummarizeWAL {
		return noSummaries("summarize_wal is off")
	}
	_, missing, err := b.c.missing(ctx, summaryFunctions())
	if err != nil {
		return err
	}
	if err := b.c.privilegeError(ctx, missing); err != nil {
		return b.summaryError(ctx, err)
	}
	return nil
}

// summaryError tells what keeps us from the summaries from what voids the backup.
func (b *Backup) summaryError(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrConnectionLost) || errors.Is(err, ErrNoSummaries) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoSummaries, err)
}

// waitSummarized waits until the summaries on disk reach our start. That is where the last of them ends: the summarizer begins a new
// one at each redo point.
func (b *Backup) waitSummarized(ctx context.Context, patience time.Duration) error {
	const sql = "SELECT summarized_lsn::text, pending_lsn::text, current_setting('summarize_wal') = 'on' FROM pg_get_wal_summarizer_state()"
	var before string
	moved := time.Now()
	for {
		var summarizedText, pending string
		var on bool
		if err := b.c.row(ctx, sql, nil, &summarizedText, &pending, &on); err != nil {
			return b.summaryError(ctx, fmt.Errorf("ask for the state of the WAL summarizer: %w", err))
		}
		summarized, err := pg.ParseLSN(summarizedText)
		if err != nil {
			return b.summaryError(ctx, err)
		}
		switch now := summarizedText + " " + pending; {
		case summarized >= b.StartLSN:
			return nil
		case !on:
			return noSummaries("summarize_wal was switched off")
		case now != before:
			before, moved = now, time.Now()
		case time.Since(moved) >= patience:
			return noSummaries("the WAL summarizer makes no progress: it should reach %s and is at %s for %s", b.StartLSN, pending, patience)
		}
		select {
		case <-time.After(summarizerPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// coveringSummaries are the summaries that cover the parts without a gap. There are gaps where summarize_wal or wal_level
// (minimal) did not let the summarizer work, where WAL was removed before it read it, and where summaries were removed
// (wal_summary_keep_time, pg_resetwal). One may reach beyond its part on either side; what it lists of there is read in vain.
func (b *Backup) coveringSummaries(ctx context.Context, parts []stretch) ([]stretch, error) {
	var chosen []stretch
	for _, p := range parts {
		available, err := b.availableSummaries(ctx, p)
		if err != nil {
			return nil, err
		}
		at := p.from
		for _, s := range available {
			if s.from > at {
				break
			}
			at = max(at, s.to)
		}
		if at < p.to {
			return nil, noSummaries("WAL from %s is needed, and there is no summary from %s on", p, at)
		}
		chosen = append(chosen, available...)
	}
	return chosen, nil
}

// availableSummaries are those that overlap with p, by where they begin.
func (b *Backup) availableSummaries(ctx context.Context, p stretch) ([]stretch, error) {
	const sql = "SELECT s.start_lsn::text, s.end_lsn::text FROM pg_available_wal_summaries() s " +
		"WHERE s.tli = $1 AND s.end_lsn > $2::text::pg_lsn AND s.start_lsn < $3::text::pg_lsn ORDER BY s.start_lsn"
	var available []stretch
	err := b.c.rows(ctx, sql, []any{int64(p.timeline), p.from.String(), p.to.String()}, func(row pgx.CollectableRow) error {
		var from, to string
		if err := row.Scan(&from, &to); err != nil {
			return err
		}
		s := stretch{timeline: p.timeline}
		var err1, err2 error
		s.from, err1 = pg.ParseLSN(from)
		s.to, err2 = pg.ParseLSN(to)
		available = append(available, s)
		return errors.Join(err1, err2)
	})
	if err != nil {
		return nil, b.summaryError(ctx, fmt.Errorf("list WAL summaries: %w", err))
	}
	return available, nil
}

// readSummary adds what a summary lists. The server checks the file's CRC after its last row.
func (b *Backup) readSummary(ctx context.Context, s stretch, changes *Changes) error {
	const sql = "SELECT reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber, is_limit_block " +
		"FROM pg_wal_summary_contents($1, $2::text::pg_lsn, $3::text::pg_lsn)"
	var r relation
	var fork int16
	var block int64
	var isLimit bool
	dest := []any{&r.spc, &r.db, &r.node, &fork, &block, &isLimit}
	err := b.c.rows(ctx, sql, []any{int64(s.timeline), s.from.String(), s.to.String()}, func(row pgx.CollectableRow) error {
		if err := row.Scan(dest...); err != nil {
			return err
		}
		if fork < 0 || block < 0 || block > math.MaxUint32 {
			return fmt.Errorf("fork %d, block %d", fork, block)
		}
		r.fork = pg.Fork(fork)
		if isLimit {
			changes.limit(r, uint32(block))
		} else {
			changes.add(r, uint32(block))
		}
		return nil
	})
	if err != nil {
		return b.summaryError(ctx, fmt.Errorf("read WAL summary %s: %w", s, err))
	}
	return nil
}
