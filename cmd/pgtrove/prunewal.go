package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/walarchive"
)

// walNeed lets walarchive, which knows no repository, say which archived WAL the snapshots need.
func (p *pruneRun) walNeed(_ context.Context, staying, leaving []repo.Commit) (repo.WALJudge, error) {
	p.judge = walarchive.NewJudge(walObjects{p.repo})
	add := func(commits []repo.Commit, stay bool) {
		for _, c := range unrefused(commits) {
			m, err := parseCommit(c)
			if err != nil {
				p.judge.Spare(c.Cluster) // which system it is of nobody knows
				continue
			}
			s := walSnapshot(m)
			s.Narrow = c.Narrowed
			p.judge.Add(m.Cluster, m.Server.SystemID, m.Server.WALSegmentSize, s, stay)
		}
	}
	add(staying, true)
	add(leaving, false)
	return func(ctx context.Context, key string) (repo.WALUse, bool, error) {
		use, follows, err := p.judge.Use(ctx, key)
		return repoUse(use), follows, err
	}, nil
}

func repoUse(use walarchive.Use) repo.WALUse {
	switch use {
	case walarchive.Parting:
		return repo.WALParting
	case walarchive.Unneeded:
		return repo.WALUnneeded
	case walarchive.Unclaimed:
		return repo.WALUnclaimed
	case walarchive.Replaced:
		return repo.WALReplaced
	}
	return repo.WALNeeded
}

// tellDoubts warns of WAL that stays only because it is not known what it is for.
func (p *pruneRun) tellDoubts() {
	if p.judge == nil {
		return
	}
	for _, err := range p.judge.Doubts() {
		p.out.warn("%v", err)
	}
}

// walPrunedJSON is what a run did to archived WAL.
type walPrunedJSON struct {
	Stored    walAmountJSON   `json:"stored"` // before
	Deleted   walAmountJSON   `json:"deleted"`
	Condemned walAmountJSON   `json:"condemned"` // the next run deletes these
	Rows      []walPrunedRows `json:"rows"`      // which
}

type walAmountJSON struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// walPrunedRows is a row of files of one timeline without a gap.
type walPrunedRows struct {
	Cluster  string `json:"cluster"`
	SystemID string `json:"system_id"`
	Timeline uint32 `json:"timeline"`
	First    string `json:"first"`
	Last     string `json:"last"`
	Files    int    `json:"files"`
	Bytes    int64  `json:"bytes"`
	Deleted  bool   `json:"deleted"` // false: condemned
}

func walPruned(r *repo.PruneReport) walPrunedJSON {
	amount := func(a repo.Amount) walAmountJSON { return walAmountJSON{a.Packs, a.Bytes} }
	return walPrunedJSON{
		Stored: amount(r.WALStored), Deleted: amount(repo.WALAmount(r.WALSwept)), Condemned: amount(repo.WALAmount(r.WALCondemned)),
		Rows: append(walRows(r.WALSwept, true), walRows(r.WALCondemned, false)...),
	}
}

func walRows(rows []repo.WALRange, deleted bool) []walPrunedRows {
	out := []walPrunedRows{}
	for _, row := range rows {
		j := walPrunedRows{First: fileOf(row.First), Last: fileOf(row.Last), Files: row.Packs, Bytes: row.Bytes, Deleted: deleted}
		if cluster, system, n, err := walarchive.ParseKey(row.First); err == nil {
			j.Cluster, j.SystemID, j.Timeline = cluster, system.String(), uint32(n.Timeline)
		}
		out = append(out, j)
	}
	return out
}

// fileOf is the name of the file under key.
func fileOf(key string) string {
	if _, _, n, err := walarchive.ParseKey(key); err == nil {
		return n.File
	}
	return key[strings.LastIndexByte(key, '/')+1:]
}

// shownRows is how many rows of files people are told of; --json lists them all.
const shownRows = 10

// walPrunedText says the same to people.
func walPrunedText(r *repo.PruneReport) string {
	var b strings.Builder
	tell := func(what string, rows []repo.WALRange) {
		if len(rows) == 0 {
			return
		}
		sum := repo.WALAmount(rows)
		fmt.Fprintf(&b, "  %s: %s of %s\n", what, showCount(int64(sum.Packs), "WAL file", "WAL files"), showBytes(sum.Bytes))
		for _, row := range walRows(rows[:min(len(rows), shownRows)], false) {
			to := ""
			if row.Last != row.First {
				to = " to " + row.Last
			}
			fmt.Fprintf(&b, "    cluster %s, timeline %d: %s%s\n", row.Cluster, row.Timeline, row.First, to)
		}
		if more := len(rows) - shownRows; more > 0 {
			fmt.Fprintf(&b, "    and %s\n", showCount(int64(more), "more row", "more rows"))
		}
	}
	tell("deleted", r.WALSwept)
	tell("the next run deletes", r.WALCondemned)
	return b.String()
}
