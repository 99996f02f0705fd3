package main

import (
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/walarchive"
)

// maxWALOfCommit bounds what a manifest can make us do that somebody has made up: it is 16 TB of WAL in one backup.
const maxWALOfCommit = 1 << 20

// walOfCommit names the WAL objects that a snapshot needs to become consistent: the segments from its start to its stop, on each timeline that
// this may lead through, and what leads from one to the next. Some of them need not exist. A manifest that cannot be read names none; that is damage, which
// Mark has told.
func walOfCommit(c repo.Commit) (keys []string) {
	m, err := parseCommit(c)
	if err != nil || m.Window.StopLSN == 0 {
		return nil
	}
	archive := walarchive.Archive{Cluster: m.Cluster, System: m.Server.SystemID}
	size, w := m.Server.WALSegmentSize, m.Window
	last := pg.SegmentBefore(w.StopTimeline, w.StopLSN, size).Number
	for tli := w.Timeline; tli <= w.StopTimeline && len(keys) < maxWALOfCommit; tli++ {
		if tli > 1 {
			keys = append(keys, archive.Key(walarchive.Name{Kind: walarchive.History, Timeline: tli, File: tli.HistoryName()}))
		}
		for s := pg.SegmentOf(tli, w.StartLSN, size); s.Number <= last && len(keys) < maxWALOfCommit; s = s.Next() {
			keys = append(keys, archive.Key(walarchive.Name{Kind: walarchive.Segment, Timeline: tli, File: s.Name(size)}))
		}
	}
	return keys
}
