package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

func newWALListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the archived WAL in rows without gaps",
		Long: "List the archived WAL of a cluster (--cluster, default main), each row a stretch of segments without a gap, and the gaps that a snapshot would have to be recovered across. A segment that " +
			"is there only in part, from `pgtrove wal receive`, has a row of its own, which says up to where.",
		Args: exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.walList(ctx) }),
	}
}

type walSpanJSON struct {
	Type     string `json:"type"`
	Cluster  string `json:"cluster"`
	SystemID string `json:"system_id"`
	Timeline uint32 `json:"timeline"`
	First    string `json:"first"`
	Last     string `json:"last"`
	Segments uint64 `json:"segments"`
	FromLSN  pg.LSN `json:"from_lsn"`
	ToLSN    pg.LSN `json:"to_lsn"` // where the segment after the last begins
}

// walReceivedJSON is a segment that is there only in part.
type walReceivedJSON struct {
	Type     string `json:"type"`
	Cluster  string `json:"cluster"`
	SystemID string `json:"system_id"`
	receivedJSON
}

// walGapJSON is a stretch that is missing.
type walGapJSON struct {
	Type     string `json:"type"`
	Cluster  string `json:"cluster"`
	SystemID string `json:"system_id"`
	gapJSON
}

func (a *app) walList(ctx context.Context) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	catalog, err := loadCatalog(ctx, r, a.settings.clusterName())
	if err != nil {
		return err
	}
	archives, err := findArchives(ctx, r, a.settings.clusterName(), catalog.snapshots)
	if err != nil {
		return err
	}
	return a.showArchives(archives, catalog)
}

// missingWAL are a timeline's gaps: where there are snapshots those that recovery from one of them needs, since a prune removes what none needs.
func missingWAL(c *walarchive.Coverage, tli pg.Timeline, all *catalog) []walarchive.Gap {
	own := all.walSnapshots(archiveKey{c.Cluster, c.System})
	if len(own) == 0 || len(all.damaged) > 0 {
		return c.Gaps(tli)
	}
	return c.NeededGaps(tli, own)
}

func (a *app) showArchives(archives []*walarchive.Coverage, all *catalog) error {
	t := newTable("CLUSTER", "SYSTEM ID", ">TL", "FIRST", "LAST", ">SEGMENTS", "FROM LSN", "TO LSN")
	var gaps, others []string // others are files that are no whole segments
	for _, c := range archives {
		for _, tli := range c.Timelines() {
			if _, ok := c.History(tli); ok && tli > 1 {
				others = append(others, tli.HistoryName())
			}
			others = append(others, c.Partials(tli)...)
			rows, missing := timelineRows(c, tli, missingWAL(c, tli, all))
			for _, row := range rows {
				t.add(row.Cluster, row.SystemID, fmt.Sprint(row.Timeline), row.First, row.Last, fmt.Sprint(row.Segments), row.FromLSN.String(), row.ToLSN.String())
			}
			var received []walReceivedJSON
			for _, p := range c.Received(tli) {
				row := walReceivedJSON{"received", c.Cluster, c.System.String(), receivedRow(p, c.SegmentSize)}
				received = append(received, row)
				t.add(row.Cluster, row.SystemID, fmt.Sprint(row.Timeline), row.Segment, "(received in part)", "", row.FromLSN.String(), row.ToLSN.String())
			}
			for _, g := range missing {
				gaps = append(gaps, fmt.Sprintf("gap: cluster %s, system %s, %s\n", c.Cluster, g.SystemID, g.gapJSON))
			}
			if !a.settings.JSON {
				continue
			}
			if err := errors.Join(eachObject(a.out, rows), eachObject(a.out, received), eachObject(a.out, missing)); err != nil {
				return err
			}
		}
	}
	switch {
	case a.settings.JSON:
		return nil
	case len(t.rows) == 0 && len(others) == 0 && len(gaps) == 0:
		a.out.info("no WAL segments of cluster %s yet", a.settings.clusterName())
		return nil
	}
	text := ""
	if len(t.rows) > 0 {
		text = t.String()
	}
	text += strings.Join(gaps, "")
	if len(others) > 0 {
		text += "besides: " + strings.Join(others, ", ") + "\n"
	}
	return a.out.print("%s", text)
}

// timelineRows are the stretches that are there of a timeline, and those that are missing.
func timelineRows(c *walarchive.Coverage, tli pg.Timeline, missing []walarchive.Gap) (rows []walSpanJSON, gaps []walGapJSON) {
	system := c.System.String()
	for _, s := range c.Spans(tli) {
		from := pg.Segment{Timeline: tli, Number: s.First}
		to := pg.Segment{Timeline: tli, Number: s.Last}
		rows = append(rows, walSpanJSON{
			Type: "wal", Cluster: c.Cluster, SystemID: system, Timeline: uint32(tli),
			First: from.Name(c.SegmentSize), Last: to.Name(c.SegmentSize), Segments: s.Segments(),
			FromLSN: from.Start(c.SegmentSize), ToLSN: to.End(c.SegmentSize),
		})
	}
	for _, g := range missing {
		gaps = append(gaps, walGapJSON{"gap", c.Cluster, system, gapRow(g, c.SegmentSize)})
	}
	return rows, gaps
}

func eachObject[T any](o *output, rows []T) error {
	for _, row := range rows {
		if err := o.object(row); err != nil {
			return err
		}
	}
	return nil
}

// findArchives scans the WAL of one cluster, or of all where cluster is "", of every system in it, in one listing. Systems that have
// snapshots and no WAL are part of it. The order is that of cluster and system.
func findArchives(ctx context.Context, r *repo.Repo, cluster string, snapshots []*snapshot.Manifest) ([]*walarchive.Coverage, error) {
	survey := newSurvey(r, snapshots)
	err := r.List(ctx, walClusterPrefix(cluster), func(key string, size int64) error { return survey.Add(ctx, key, size) })
	if err != nil {
		return nil, err
	}
	return survey.Coverages(ctx)
}

// newSurvey is a survey of archives that knows how long segments are where there are snapshots.
func newSurvey(r *repo.Repo, snapshots []*snapshot.Manifest) *walarchive.Survey {
	survey := walarchive.NewSurvey(walObjects{r})
	for _, m := range snapshots {
		survey.Expect(archiveOf(m).in(r), m.Server.WALSegmentSize)
	}
	return survey
}

// walClusterPrefix is what the keys of a cluster's WAL begin with; those of all clusters where cluster is "".
func walClusterPrefix(cluster string) string {
	if cluster == "" {
		return walarchive.Prefix
	}
	return walPrefix(cluster, "")
}
