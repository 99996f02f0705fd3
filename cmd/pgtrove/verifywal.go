package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
	"github.com/pgtrove/pgtrove/walarchive"
)

// wal verifies the archive: which WAL the snapshots lack, and what of it this run reads. Where snapshots were named it is
// their WAL only.
func (v *verifyRun) wal(ctx context.Context, named bool) error {
	archives, err := v.listWAL(ctx, named)
	if err != nil {
		return err
	}
	if err := v.walThere(ctx, archives); err != nil {
		return err
	}
	if !v.reads() {
		return nil
	}
	p := v.out.startProgress("verify WAL", 0, nil)
	defer p.close()
	for _, c := range archives {
		p.total.Add(c.Bytes / int64(v.o.share.slices))
	}
	for _, c := range archives {
		if named {
			err = v.walOfSnapshots(ctx, c)
		} else {
			err = v.walOfArchive(ctx, c, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// listWAL scans the archives as findArchives does, but reports each file of which the scan would read the header and cannot, and goes on without it.
func (v *verifyRun) listWAL(ctx context.Context, named bool) ([]*walarchive.Coverage, error) {
	survey := newSurvey(v.repo, v.snapshots)
	take := func(key string, size int64) error {
		cluster, system, name, err := walarchive.ParseKey(key)
		if err == nil && name.Kind == walarchive.History {
			if _, err = (archiveKey{cluster, system}).in(v.repo).Header(ctx, name.File); err != nil {
				return err
			}
		}
		return survey.Add(ctx, key, size)
	}
	err := v.repo.List(ctx, walClusterPrefix(v.settings.Cluster), func(key string, size int64) error {
		err := take(key, size)
		switch {
		case errors.Is(err, walarchive.ErrNotExist): // a prune removed it meanwhile
			return nil
		case err != nil && isDamage(err):
			v.unreadableWAL(key, err, named)
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return survey.Coverages(ctx)
}

// unreadableWAL notes a file without which the scan goes on. What a history file says is needed to recover on its timeline; snapshots of others are not
// concerned.
func (v *verifyRun) unreadableWAL(key string, err error, named bool) {
	d := damageJSON{Type: "damage", Object: key, Error: err.Error()}
	cluster, system, name, _ := walarchive.ParseKey(key) // it was taken apart before
	for _, m := range ofArchive(v.snapshots, archiveKey{cluster, system}) {
		if m.Window.StopTimeline == name.Timeline && name.Kind == walarchive.History {
			d.Snapshots = append(d.Snapshots, m.ID)
		}
	}
	if !named || len(d.Snapshots) > 0 {
		v.damage = append(v.damage, d)
	}
}

// hasDamage says whether damage of this object was noted.
func (v *verifyRun) hasDamage(object string) bool {
	return slices.ContainsFunc(v.damage, func(d damageJSON) bool { return d.Object == object })
}

// walThere finds out which snapshots lack WAL, and what is missing behind them. It looks at the snapshots once more: what a prune removed before the
// archive was listed, it removed with them.
func (v *verifyRun) walThere(ctx context.Context, archives []*walarchive.Coverage) error {
	now, err := loadCatalog(ctx, v.repo, v.settings.Cluster)
	if err != nil {
		return err
	}
	narrowed := now.narrowed()
	for _, c := range archives {
		var own []walarchive.Snapshot
		for _, m := range ofArchive(v.snapshots, archiveKey{c.Cluster, c.System}) {
			if !slices.ContainsFunc(now.snapshots, func(n *snapshot.Manifest) bool { return n.ID == m.ID }) {
				continue
			}
			s := walSnapshot(m)
			s.Narrow = narrowed[m.ID]
			own = append(own, s)
			v.walOf(m, c)
		}
		for _, tli := range c.Timelines() {
			for _, g := range c.NeededGaps(tli, own) {
				v.gap(c, gapRow(g, c.SegmentSize))
			}
		}
	}
	return nil
}

// walOf says whether a snapshot lacks WAL that it cannot be recovered without, and whether it had it.
func (v *verifyRun) walOf(m *snapshot.Manifest, c *walarchive.Coverage) {
	missing := c.MissingOf(walSnapshot(m))
	switch {
	case len(missing) == 0:
		return
	case v.hasDamage(archiveOf(m).in(v.repo).Key(historyOf(m.Window.StopTimeline))): // the way to it is not known
		return
	case m.WAL == snapshot.WALComplete:
		v.walLost = append(v.walLost, m.ID)
		for _, s := range missing {
			v.missingWAL(m.ID, c, s)
		}
		return
	case m.WAL == snapshot.WALMissing:
		v.walNever = append(v.walNever, m.ID)
	}
	v.out.warn("snapshot %s cannot be recovered from this repository alone: its WAL is %s", m.ID, walState(m, c))
}

func historyOf(tli pg.Timeline) walarchive.Name {
	return walarchive.Name{File: tli.HistoryName(), Kind: walarchive.History, Timeline: tli}
}

// missingWAL notes that segments are gone. What several snapshots lack is damage once.
func (v *verifyRun) missingWAL(id string, c *walarchive.Coverage, s walarchive.Span) {
	first := s.Names(c.SegmentSize, 1)[0]
	key := walPrefix(c.Cluster, c.System.String()) + first
	if name, err := walarchive.ParseName(first); err == nil {
		key = archiveKey{c.Cluster, c.System}.in(v.repo).Key(name)
	}
	text := fmt.Sprintf("it was archived and is gone, %s from there on", showCount(int64(s.Segments()), "segment", "segments"))
	if i := slices.IndexFunc(v.damage, func(d damageJSON) bool { return d.Object == key && d.Error == text }); i >= 0 {
		v.damage[i].Snapshots = append(v.damage[i].Snapshots, id)
		return
	}
	v.damage = append(v.damage, damageJSON{Type: "damage", Object: key, Error: text, Snapshots: []string{id}})
}

func (v *verifyRun) gap(c *walarchive.Coverage, g gapJSON) {
	// What a snapshot lacks itself was told already.
	if key := "/" + g.First; slices.ContainsFunc(v.damage, func(d damageJSON) bool { return strings.HasSuffix(d.Object, key) }) {
		return
	}
	v.gaps = append(v.gaps, g)
	v.out.warn("the WAL of cluster %s has a gap on timeline %d, %s to %s, %s from %s on: no recovery comes across it", c.Cluster, g.Timeline,
		g.FromLSN, g.ToLSN, showCount(int64(g.Segments), "segment", "segments"), g.First)
}

// withoutWAL is the error of a run that found no damage, but snapshots whose WAL never came.
func (v *verifyRun) withoutWAL() error {
	if len(v.walNever) == 0 {
		return nil
	}
	err := incomplete("verify: %s cannot be recovered from this repository alone, since WAL did not come: %s",
		showCount(int64(len(v.walNever)), "snapshot", "snapshots"), strings.Join(v.walNever, ", "))
	return withHint(err, "once the missing WAL is archived they are complete; else take a new backup, and forget them")
}

func (v *verifyRun) walOfArchive(ctx context.Context, c *walarchive.Coverage, p *progress) error {
	// A segment takes its plain size several times over in memory: large ones are read one at a time.
	jobs := v.jobs(allJobs())
	if c.SegmentSize > 64<<20 {
		jobs = 1
	}
	read := func(stored int64) {
		p.add(stored)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.walFiles++
		v.walBytes += stored
	}
	return archiveKey{c.Cluster, c.System}.in(v.repo).Verify(ctx, walarchive.Check{
		Jobs: jobs, Chosen: v.chosen, Progress: read,
		Damaged: func(key string, err error) { v.damagedWAL(c, key, err) },
	})
}

// walOfSnapshots reads the segments that the named snapshots need to become consistent.
func (v *verifyRun) walOfSnapshots(ctx context.Context, c *walarchive.Coverage) error {
	archive := archiveKey{c.Cluster, c.System}.in(v.repo)
	read := map[string]bool{}
	for _, m := range ofArchive(v.snapshots, archiveKey{c.Cluster, c.System}) {
		for _, s := range c.PathTo(m.Window.StopTimeline).Segments(m.Window.StartLSN, m.Window.StopLSN) {
			name, err := walarchive.ParseName(s.Name(c.SegmentSize))
			if err != nil {
				return err
			}
			key := archive.Key(name)
			if read[key] || !v.chosen(key) {
				continue
			}
			read[key] = true
			_, _, err = archive.Fetch(ctx, name.File)
			if errors.Is(err, walarchive.ErrNotExist) {
				err = v.partsOfSnapshots(ctx, c, archive, name.File)
			}
			switch {
			case errors.Is(err, walarchive.ErrNotExist): // told before
			case err != nil && isDamage(err):
				v.damagedWAL(c, key, err)
			case err != nil:
				return err
			default:
				v.walFiles++
			}
		}
	}
	return nil
}

// damagedWAL is called from several goroutines. It names the snapshots that need the segment to become consistent, and what of the
// archive cannot be passed any more. Of parts whose segment is there nobody needs anything.
func (v *verifyRun) damagedWAL(c *walarchive.Coverage, key string, err error) {
	d := damageJSON{Type: "damage", Object: key, Error: err.Error()}
	_, _, name, _ := walarchive.ParseKey(key) // it was taken apart before
	if s, ok := ofSegment(c, name); ok {
		for _, m := range ofArchive(v.snapshots, archiveKey{c.Cluster, c.System}) {
			if slices.Contains(c.PathTo(m.Window.StopTimeline).Segments(m.Window.StartLSN, m.Window.StopLSN), s) {
				d.Snapshots = append(d.Snapshots, m.ID)
			}
		}
		d.Breaks = &brokenJSON{uint32(s.Timeline), s.Start(c.SegmentSize), s.End(c.SegmentSize)}
		if from, to := name.Span(); name.Kind == walarchive.PartKind {
			d.Breaks.FromLSN, d.Breaks.ToLSN = s.Start(c.SegmentSize)+pg.LSN(from), s.Start(c.SegmentSize)+pg.LSN(to)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.hasDamage(key) { // the scan may have come across it
		v.damage = append(v.damage, d)
	}
}

// ofSegment is the segment that recovery reads the file for, if it does.
func ofSegment(c *walarchive.Coverage, name walarchive.Name) (s pg.Segment, ok bool) {
	if name.Kind != walarchive.Segment && name.Kind != walarchive.PartKind {
		return s, false
	}
	s, err := pg.ParseSegment(name.OfSegment(), c.SegmentSize)
	return s, err == nil && (name.Kind == walarchive.Segment || !c.HasItself(s))
}

// partsOfSnapshots reads the parts of a segment that is not there in full.
func (v *verifyRun) partsOfSnapshots(ctx context.Context, c *walarchive.Coverage, archive walarchive.Archive, segment string) error {
	_, _, err := archive.FetchParts(ctx, segment, func(file string, err error) {
		if name, parseErr := walarchive.ParseName(file); parseErr == nil {
			v.damagedWAL(c, archive.Key(name), err)
		}
	})
	if errors.Is(err, walarchive.ErrDamaged) {
		return nil // which was told
	}
	return err
}
