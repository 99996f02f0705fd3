package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

func newInfoCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Show per cluster what can be recovered",
		Long: `Show per cluster its snapshots, the space it takes, the windows of time that can really be recovered, and the gaps in
its WAL. A window begins where a snapshot ends and goes on as long as the archive has every segment, or, of a snapshot that
keeps only its own moment, ends there. WAL that no snapshot needs is no gap where it is missing. What ` + "`pgtrove wal receive`" + ` has
stored of a segment that its server has not finished is part of a window.`,
		Args: exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.info(ctx) }),
	}
}

// repositoryJSON is the repository's line of info.
type repositoryJSON struct {
	Type      string   `json:"type"`
	ID        string   `json:"id"`
	Repo      string   `json:"repo"`
	Created   jsonTime `json:"created"`
	Clusters  int      `json:"clusters"`
	Snapshots int      `json:"snapshots"`
	Packs     int64    `json:"packs"`
	PackBytes int64    `json:"pack_bytes"`
	WALFiles  int64    `json:"wal_files"`
	WALBytes  int64    `json:"wal_bytes"`
	Bytes     int64    `json:"bytes"` // of all objects
}

// clusterJSON is one cluster's line; a cluster that was replaced or upgraded has one per system identifier.
type clusterJSON struct {
	Type      string       `json:"type"`
	Cluster   string       `json:"cluster"`
	SystemID  string       `json:"system_id"`
	PGVersion string       `json:"pg_version,omitempty"` // of the newest snapshot
	Snapshots int          `json:"snapshots"`
	Size      int64        `json:"size"`  // of the cluster in its newest snapshot
	Added     int64        `json:"added"` // by all its snapshots
	WALFiles  int          `json:"wal_files"`
	WALBytes  int64        `json:"wal_bytes"`
	Windows   []windowJSON `json:"windows"`
	Gaps      []gapJSON    `json:"gaps"`
	// Received are segments that are there only in part, at the end of their timelines.
	Received []receivedJSON `json:"received,omitempty"`
	// Unusable snapshots lack WAL that they need, and are in no window.
	Unusable []string `json:"unusable,omitempty"`
}

type windowJSON struct {
	Timeline uint32   `json:"timeline"`
	FromLSN  pg.LSN   `json:"from_lsn"`
	FromTime jsonTime `json:"from_time"`
	ToLSN    pg.LSN   `json:"to_lsn"`
	ToTime   jsonTime `json:"to_time"`
}

// receivedJSON is a segment that wal receive has stored as far as it is written.
type receivedJSON struct {
	Timeline uint32 `json:"timeline"`
	Segment  string `json:"segment"`
	FromLSN  pg.LSN `json:"from_lsn"` // the segment's start
	ToLSN    pg.LSN `json:"to_lsn"`
	Parts    int    `json:"parts"` // objects
}

func receivedRow(r walarchive.Received, size pg.SegmentSize) receivedJSON {
	return receivedJSON{uint32(r.Timeline), r.Name(size), r.Start(size), r.To, r.Parts}
}

type gapJSON struct {
	Timeline uint32 `json:"timeline"`
	FromLSN  pg.LSN `json:"from_lsn"`
	ToLSN    pg.LSN `json:"to_lsn"`
	Segments uint64 `json:"segments"`
	First    string `json:"first"`
	// Received is up to where wal receive had the first segment; no more of it came.
	Received pg.LSN `json:"received_to,omitempty"`
	// Recorded says why, where that is known: what wal push --max-backlog gave up.
	Recorded []*walarchive.GapNote `json:"recorded,omitempty"`
}

func gapRow(g walarchive.Gap, size pg.SegmentSize) gapJSON {
	return gapJSON{uint32(g.Timeline), g.From, g.To, g.Segments(), g.Names(size, 1)[0], g.Received, g.Notes}
}

func (g gapJSON) String() string {
	text := fmt.Sprintf("timeline %d, %s to %s, %s from %s on", g.Timeline, g.FromLSN, g.ToLSN,
		showCount(int64(g.Segments), "segment", "segments"), g.First)
	if g.Received != 0 {
		text += fmt.Sprintf(", received up to %s only", g.Received)
	}
	for _, n := range g.Recorded {
		text += "; " + showGapNote(n)
	}
	return text
}

// showGapNote says why segments were given up.
func showGapNote(n *walarchive.GapNote) string {
	if n.Reason != walarchive.ReasonBacklog {
		return fmt.Sprintf("given up: %s to %s", n.First, n.Last)
	}
	text := fmt.Sprintf("dropped by wal push --max-backlog %s on %s, %s to %s, when the storage could not be reached and %s waited (%s)",
		showBytes(n.Limit), n.Host, showTime(n.From), showTime(n.To), showBytes(n.Waiting), n.Error)
	if len(n.Files) > 0 {
		text += ", and with it " + strings.Join(n.Files, ", ")
	}
	return text
}

func (a *app) info(ctx context.Context) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	catalog, err := loadCatalog(ctx, r, a.settings.Cluster)
	if err != nil {
		return err
	}
	// One listing for both: there may be a million segments.
	survey, cluster := newSurvey(r, catalog.snapshots), walClusterPrefix(a.settings.Cluster)
	whole, err := a.repositorySizes(ctx, r, func(key string, size int64) error {
		if !strings.HasPrefix(key, cluster) {
			return nil
		}
		return survey.Add(ctx, key, size)
	})
	if err != nil {
		return err
	}
	archives, err := survey.Coverages(ctx)
	if err != nil {
		return err
	}
	whole.Clusters, whole.Snapshots = len(archives), len(catalog.snapshots)
	if err := a.showRepository(whole); err != nil {
		return err
	}
	for _, coverage := range archives {
		headers := newSeenHeaders(archiveKey{coverage.Cluster, coverage.System}.in(r))
		c, newest, err := clusterInfo(ctx, headers, coverage, catalog)
		if err != nil {
			return err
		}
		a.tellDoubts(coverage, headers)
		if err := a.showCluster(c, newest); err != nil {
			return err
		}
	}
	if err := a.showRefused(catalog); err != nil {
		return err
	}
	return catalog.damage(a)
}

// repositorySizes sums up all objects, and calls fn for each.
func (a *app) repositorySizes(ctx context.Context, r *repo.Repo, fn func(key string, size int64) error) (*repositoryJSON, error) {
	name, err := a.repositoryName()
	if err != nil {
		return nil, err
	}
	c := r.Config()
	whole := &repositoryJSON{Type: "repository", ID: c.ID, Repo: name, Created: jsonTime(c.Created)}
	err = r.List(ctx, "", func(key string, size int64) error {
		whole.Bytes += size
		switch kind, _, _ := strings.Cut(key, "/"); kind {
		case "packs":
			whole.Packs++
			whole.PackBytes += size
		case "wal":
			whole.WALFiles++
			whole.WALBytes += size
		}
		return fn(key, size)
	})
	return whole, err
}

// clusterInfo computes one cluster's line from the listing and a bounded number of WAL headers.
func clusterInfo(ctx context.Context, headers walarchive.Headers, coverage *walarchive.Coverage, all *catalog) (*clusterJSON, *snapshot.Manifest, error) {
	k := archiveKey{coverage.Cluster, coverage.System}
	c := &clusterJSON{
		Type: "cluster", Cluster: k.cluster, SystemID: k.system.String(), WALFiles: coverage.Files, WALBytes: coverage.Bytes,
		Windows: []windowJSON{}, Gaps: []gapJSON{},
	}
	own := all.walSnapshots(k)
	var newest *snapshot.Manifest
	for _, m := range all.snapshots {
		if archiveOf(m) != k {
			continue
		}
		newest = m
		c.Snapshots++
		c.Added += m.Totals.Added
		c.Size, c.PGVersion = m.Totals.Size, m.Server.VersionString()
		if walState(m, coverage) != snapshot.WALComplete {
			c.Unusable = append(c.Unusable, m.ID)
		}
	}
	windows, err := coverage.Windows(ctx, headers, own)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range windows {
		c.Windows = append(c.Windows, windowJSON{uint32(w.Timeline), w.FromLSN, jsonTime(w.FromTime), w.ToLSN, jsonTime(w.ToTime)})
	}
	for _, tli := range coverage.Timelines() {
		for _, g := range coverage.NeededGaps(tli, own) {
			c.Gaps = append(c.Gaps, gapRow(g, coverage.SegmentSize))
		}
		if r, ok := coverage.NewestReceived(tli); ok {
			c.Received = append(c.Received, receivedRow(r, coverage.SegmentSize))
		}
	}
	return c, newest, nil
}

func (a *app) showRepository(w *repositoryJSON) error {
	if a.settings.JSON {
		return a.out.object(w)
	}
	text := fmt.Sprintf("repository %s in %s: %s (%s in %s, %s of WAL)\n", w.ID[:16], w.Repo, showBytes(w.Bytes),
		showBytes(w.PackBytes), showCount(w.Packs, "pack", "packs"), showBytes(w.WALBytes))
	if w.Clusters == 0 {
		text += "no snapshots and no WAL yet" + ofCluster(a.settings.Cluster) + "\n"
	}
	return a.out.print("%s", text)
}

func (a *app) showCluster(c *clusterJSON, newest *snapshot.Manifest) error {
	if a.settings.JSON {
		return a.out.object(c)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\ncluster %s, system %s", c.Cluster, c.SystemID)
	if newest != nil {
		fmt.Fprintf(&b, ", PostgreSQL %s\n", c.PGVersion)
		fmt.Fprintf(&b, "  snapshots: %d, the newest of %s; the cluster has %s, all snapshots together added %s\n",
			c.Snapshots, showTime(newest.Window.StopTime), showBytes(c.Size), showBytes(c.Added))
	} else {
		b.WriteString("\n  snapshots: none, so nothing can be recovered from its WAL\n")
	}
	if c.WALFiles == 0 {
		b.WriteString("  WAL: none, so no snapshot can be recovered from this repository alone\n")
	} else {
		fmt.Fprintf(&b, "  WAL: %s, %s stored\n", showCount(int64(c.WALFiles), "file", "files"), showBytes(c.WALBytes))
	}
	if len(c.Windows) > 0 {
		b.WriteString("  recoverable to every moment:\n")
	}
	for _, w := range c.Windows {
		fmt.Fprintf(&b, "    timeline %d: %s to %s  (%s to %s)\n", w.Timeline, w.FromLSN, w.ToLSN, showJSONTime(w.FromTime), showJSONTime(w.ToTime))
	}
	for _, id := range c.Unusable {
		fmt.Fprintf(&b, "  not recoverable: snapshot %s lacks WAL\n", id)
	}
	for _, r := range c.Received {
		fmt.Fprintf(&b, "  received: timeline %d up to %s, the last segment (%s) in %s\n", r.Timeline, r.ToLSN, r.Segment, showCount(int64(r.Parts), "part", "parts"))
	}
	for _, g := range c.Gaps {
		fmt.Fprintf(&b, "  gap: %s\n", g)
	}
	return a.out.print("%s", b.String())
}
