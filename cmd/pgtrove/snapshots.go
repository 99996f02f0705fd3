package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

func newSnapshotsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshots",
		Short: "List the snapshots, newest last",
		Long: `List the snapshots of a cluster (--cluster, default main), newest last. A snapshot that is not what it claims to be, since the host that
signed it may not write for that cluster, took another host's name, or had its key removed before, is told and refused: nothing uses it. The
exit code is then 5.`,
		Args: exactly(),
		RunE: a.run(func(ctx context.Context, _ []string) error { return a.snapshots(ctx) }),
	}
}

func (a *app) snapshots(ctx context.Context) error {
	r, err := a.openRepository(ctx)
	if err != nil {
		return err
	}
	name := a.settings.clusterName()
	c, err := loadCatalog(ctx, r, name)
	if err != nil {
		return err
	}
	states, err := walStates(ctx, r, c.snapshots)
	if err != nil {
		return err
	}
	pins, narrowed := c.pinned(), c.narrowed()
	if a.settings.JSON {
		for i, m := range c.snapshots {
			result := snapshotResult(m, states[i])
			result.Pinned, result.Narrowed = pins[m.ID], narrowed[m.ID]
			if err := a.out.object(result); err != nil {
				return err
			}
		}
		if err := a.showRefused(c); err != nil {
			return err
		}
		return c.damage(a)
	}
	if err := a.tellOthers(ctx, r, name); err != nil {
		return err
	}
	if n := c.forgotten(); n > 0 {
		a.out.info("not shown: %s, which the next prune removes", showCount(n, "forgotten snapshot", "forgotten snapshots"))
	}
	a.warnRefused(c)
	if len(c.snapshots) == 0 && len(c.damaged) == 0 {
		a.out.info("no snapshots of cluster %s yet", name)
		return c.refusal()
	}
	t := newTable("ID", "CLUSTER", "PG", "TAKEN", ">SIZE", ">ADDED", ">FILES", "TL", "STOP LSN", "WAL", "TAGS")
	for i, m := range c.snapshots {
		t.add(m.ID, m.Cluster, m.Server.VersionString(), showTime(m.Window.StopTime), showBytes(m.Totals.Size), showBytes(m.Totals.Added),
			fmt.Sprint(m.Totals.Files), fmt.Sprint(uint32(m.Window.StopTimeline)), m.Window.StopLSN.String(), walText(m, states[i]), tagText(m.Tags, pins[m.ID], narrowed[m.ID]))
	}
	if err := a.out.print("%s", t); err != nil {
		return err
	}
	return c.damage(a)
}

// tellOthers says that the repository holds more than the cluster that is shown, where none was asked for.
func (a *app) tellOthers(ctx context.Context, r *repo.Repo, shown string) error {
	if a.settings.Cluster != "" || a.settings.Quiet {
		return nil
	}
	var others []string
	err := r.List(ctx, "snapshots/", func(key string, _ int64) error {
		parts := strings.Split(key, "/")
		// What prunes write for themselves stands under a name that no cluster can have.
		if len(parts) == 3 && parts[1] != shown && checkClusterName(parts[1]) == nil && !slices.Contains(others, parts[1]) {
			others = append(others, parts[1])
		}
		return nil
	})
	if err == nil && len(others) > 0 {
		a.out.info("showing cluster %s; --cluster shows another: %s", shown, strings.Join(others, ", "))
	}
	return err
}

// damage reports commits that did not open, after all that did were shown; else those that are refused.
func (c *catalog) damage(a *app) error {
	if len(c.damaged) == 0 {
		return c.refusal()
	}
	for _, err := range c.damaged[1:] {
		a.out.warn("%v", err)
	}
	return c.damaged[0]
}

func ofCluster(name string) string {
	if name == "" {
		return ""
	}
	return " of cluster " + name
}

func walText(m *snapshot.Manifest, s snapshot.WALState) string {
	if len(m.Damaged) > 0 {
		return string(s) + ", damaged pages"
	}
	return string(s)
}

// tagText shows as tags that a snapshot is pinned, and that it was narrowed: a person's have an equals sign.
func tagText(tags map[string]string, pinned, narrowed bool) string {
	var all []string
	for k, v := range tags {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	if narrowed {
		all = append([]string{"narrowed"}, all...)
	}
	if pinned {
		all = append([]string{"pinned"}, all...)
	}
	return strings.Join(all, " ")
}

// snapshotJSON is a snapshot as snapshots, backup and inspect print it.
type snapshotJSON struct {
	Type         string            `json:"type"`
	ID           string            `json:"id"`
	Cluster      string            `json:"cluster"`
	SystemID     string            `json:"system_id"`
	PGVersion    string            `json:"pg_version"`
	Timeline     uint32            `json:"timeline"`
	StopTimeline uint32            `json:"stop_timeline"`
	StartLSN     pg.LSN            `json:"start_lsn"`
	StopLSN      pg.LSN            `json:"stop_lsn"`
	StartTime    jsonTime          `json:"start_time"`
	StopTime     jsonTime          `json:"stop_time"`
	NextXID      uint64            `json:"next_xid"`
	Size         int64             `json:"size"`
	Read         int64             `json:"read"`
	New          int64             `json:"new"`
	Added        int64             `json:"added"`
	MetaAdded    int64             `json:"meta_added"`
	ChangedPages int64             `json:"changed_pages"`
	SkippedFiles int64             `json:"skipped_files_bytes"`
	SkippedPages int64             `json:"skipped_blocks_bytes"`
	Seconds      float64           `json:"seconds"`
	Files        int64             `json:"files"`
	Tags         map[string]string `json:"tags"`
	Pinned       bool              `json:"pinned"`
	Narrowed     bool              `json:"narrowed"` // of the WAL it keeps only what leads to its own moment
	WAL          snapshot.WALState `json:"wal"`
	Checksums    bool              `json:"checksums"`
	Damaged      []damagedJSON     `json:"damaged,omitempty"`
	Host         string            `json:"host"`
	Standby      bool              `json:"standby"`
}

type damagedJSON struct {
	Path     string `json:"path"`
	Block    uint32 `json:"block"`
	Stored   uint16 `json:"stored"`
	Computed uint16 `json:"computed"`
}

func snapshotResult(m *snapshot.Manifest, wal snapshot.WALState) snapshotJSON {
	s := snapshotJSON{
		Type: "snapshot", ID: m.ID, Cluster: m.Cluster, SystemID: m.Server.SystemID.String(), PGVersion: m.Server.VersionString(),
		Timeline: uint32(m.Window.Timeline), StopTimeline: uint32(m.Window.StopTimeline),
		StartLSN: m.Window.StartLSN, StopLSN: m.Window.StopLSN,
		StartTime: jsonTime(m.Window.StartTime), StopTime: jsonTime(m.Window.StopTime), NextXID: m.Window.NextXID,
		Size: m.Totals.Size, Read: m.Totals.Read, New: m.Totals.New, Added: m.Totals.Added, Files: m.Totals.Files,
		MetaAdded: m.Totals.Meta, ChangedPages: m.Totals.ChangedPages, Seconds: m.Totals.Seconds,
		SkippedFiles: m.Totals.Skipped.FileBytes, SkippedPages: m.Totals.Skipped.BlockBytes,
		Tags: m.Tags, WAL: wal, Checksums: m.Server.Checksums, Host: m.Origin.Host, Standby: m.Origin.Standby,
	}
	if s.Tags == nil {
		s.Tags = map[string]string{}
	}
	for _, d := range m.Damaged {
		s.Damaged = append(s.Damaged, damagedJSON(d))
	}
	return s
}

// archiveKey names one PostgreSQL cluster's WAL in a repository.
type archiveKey struct {
	cluster string
	system  pg.SystemID
}

func archiveOf(m *snapshot.Manifest) archiveKey { return archiveKey{m.Cluster, m.Server.SystemID} }

func (k archiveKey) in(r *repo.Repo) walarchive.Archive {
	return walarchive.Archive{Objects: walObjects{r}, Cluster: k.cluster, System: k.system}
}

// walPrefix is what the keys of a system's WAL begin with; of all systems of the cluster where system is "".
func walPrefix(cluster, system string) string {
	p := walarchive.Prefix + cluster + "/"
	if system != "" {
		p += system + "/"
	}
	return p
}

func parseWALKey(key string) (archiveKey, error) {
	cluster, system, _, err := walarchive.ParseKey(key)
	return archiveKey{cluster, system}, err
}

// walSnapshot is what walarchive needs to know of a snapshot.
func walSnapshot(m *snapshot.Manifest) walarchive.Snapshot {
	w := m.Window
	return walarchive.Snapshot{
		ID: m.ID, Timeline: w.Timeline, StopTimeline: w.StopTimeline, StartLSN: w.StartLSN, StopLSN: w.StopLSN, StopTime: w.StopTime,
		Complete: m.WAL == snapshot.WALComplete,
	}
}

// walStates says of each snapshot whether the WAL that it needs is in the repository now. What nobody has waited for
// is unproven until it is found.
func walStates(ctx context.Context, r *repo.Repo, snapshots []*snapshot.Manifest) ([]snapshot.WALState, error) {
	scanned := map[archiveKey]*walarchive.Coverage{}
	states := make([]snapshot.WALState, len(snapshots))
	for i, m := range snapshots {
		k := archiveOf(m)
		if scanned[k] == nil {
			c, err := k.in(r).Scan(ctx, m.Server.WALSegmentSize)
			if err != nil {
				return nil, err
			}
			scanned[k] = c
		}
		states[i] = walState(m, scanned[k])
	}
	return states, nil
}

func walState(m *snapshot.Manifest, c *walarchive.Coverage) snapshot.WALState {
	switch {
	case len(c.MissingOf(walSnapshot(m))) == 0:
		return snapshot.WALComplete
	case m.WAL == snapshot.WALUnproven:
		return snapshot.WALUnproven
	}
	return snapshot.WALMissing
}
