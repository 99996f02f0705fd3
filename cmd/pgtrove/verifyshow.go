package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/restore"
)

type damageJSON struct {
	Type      string      `json:"type"`
	Object    string      `json:"object"`
	Error     string      `json:"error"`
	Snapshots []string    `json:"snapshots"`
	Files     []string    `json:"files"`
	MoreFiles int64       `json:"more_files,omitempty"`
	Chunks    []string    `json:"chunks,omitempty"` // that cannot be opened, where it is not known which files need them
	Breaks    *brokenJSON `json:"breaks,omitempty"`

	index   bool // it is a part of the index
	unnamed bool // the index does not have it
	given   bool // a repair has been there already
}

// brokenJSON is a stretch of WAL that no recovery can pass.
type brokenJSON struct {
	Timeline uint32 `json:"timeline"`
	FromLSN  pg.LSN `json:"from_lsn"`
	ToLSN    pg.LSN `json:"to_lsn"`
}

func damageOf(kind string, d *restore.Damage) damageJSON {
	return damageJSON{Type: kind, Object: d.Object, Error: d.Err.Error(), Snapshots: d.Snapshots, Files: d.Files, MoreFiles: d.MoreFiles,
		unnamed: errors.Is(d.Err, repo.ErrNotIndexed), given: errors.Is(d.Err, restore.ErrGivenUp)}
}

type verifyJSON struct {
	Type      string    `json:"type"`
	Snapshots int       `json:"snapshots"`
	Files     int64     `json:"files"`
	Chunks    int64     `json:"chunks"`
	Packs     int       `json:"packs"`
	PackBytes int64     `json:"pack_bytes"`
	WALFiles  int64     `json:"wal_files"`           // that were read
	WALBytes  int64     `json:"wal_bytes,omitempty"` // as stored; not counted where snapshots were named
	ReadData  bool      `json:"read_data"`
	ReadBytes int64     `json:"read_bytes"`          // of packs
	Slice     uint64    `json:"slice,omitempty"`     // which was read, from 1
	Slices    uint64    `json:"slices,omitempty"`    // of how many; 1: everything
	AllSince  *jsonTime `json:"all_since,omitempty"` // everything was read since then; absent: not all of it yet
	WALLost   []string  `json:"wal_lost"`            // IDs of snapshots that had all WAL that they need, and lack some now
	WALNever  []string  `json:"wal_missing"`         // IDs of those that lack WAL which never came
	Gaps      []gapJSON `json:"gaps"`                // in the WAL behind the snapshots, up to which they can be recovered
	Damaged   int       `json:"damaged"`
	Refused   int       `json:"refused"` // snapshots that are not what they claim to be
}

func (v *verifyRun) show() error {
	for i := range v.damage {
		if err := v.showDamage(&v.damage[i]); err != nil {
			return err
		}
	}
	if err := v.showRepair(); err != nil {
		return err
	}
	if v.refused == nil {
		v.refused = &catalog{}
	}
	if err := v.showRefused(v.refused); err != nil {
		return err
	}
	seen := v.remember()
	s := verifyJSON{
		Type: "verify", Snapshots: v.report.Snapshots, Files: v.report.Files, Chunks: v.report.Chunks, Packs: v.report.Packs, PackBytes: v.report.Bytes,
		WALFiles: v.walFiles, WALBytes: v.walBytes, ReadData: v.reads(), ReadBytes: v.report.ReadBytes, Damaged: len(v.damage),
		WALLost: append([]string{}, v.walLost...), WALNever: append([]string{}, v.walNever...), Gaps: append([]gapJSON{}, v.gaps...),
		Refused: len(v.refused.refused),
	}
	if v.reads() {
		s.Slice, s.Slices = v.k+1, v.o.share.slices
		if since := seen.since(slice(0, 1)); !since.IsZero() {
			t := jsonTime(since)
			s.AllSince = &t
		}
	}
	if v.settings.JSON {
		if err := v.out.object(s); err != nil {
			return err
		}
	}
	if len(v.damage) > 0 {
		return v.failure()
	}
	switch {
	case v.settings.JSON:
		return v.shortOf()
	case s.Snapshots == 0 && s.WALFiles == 0:
		v.out.info("nothing to verify: no snapshots yet%s", ofCluster(v.settings.Cluster))
		return v.refused.refusal()
	}
	if err := v.out.print("%s, in %s\n", v.summary(&s, seen), showDuration(time.Since(v.begun))); err != nil {
		return err
	}
	return v.shortOf()
}

// shortOf is the error of a verification that found nothing damaged.
func (v *verifyRun) shortOf() error {
	if err := v.withoutWAL(); err != nil {
		return err
	}
	return v.refused.refusal()
}

// remember notes what was read. That the cache does not work is no reason to fail: the slice is then read again.
func (v *verifyRun) remember() coverage {
	if !v.reads() {
		return nil
	}
	var damaged []string
	for i := range v.damage {
		if key := v.damage[i].Object; isObject(key) {
			damaged = append(damaged, key)
		}
	}
	seen, err := v.log.add(v.slice, time.Now(), damaged, v.chosen)
	if err != nil && v.o.share.slices > 1 {
		v.out.warn("what was read cannot be remembered, so the next run reads the same: %v", err)
	}
	return seen.Read
}

// isObject says whether damage is that of an object that is read in slices.
func isObject(key string) bool {
	return slices.ContainsFunc([]string{"packs/", "wal/", "index/", "base/"}, func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

func (v *verifyRun) summary(s *verifyJSON, seen coverage) string {
	text := fmt.Sprintf("%s with %s: all of %s in %s ", showCount(int64(s.Snapshots), "snapshot", "snapshots"),
		showCount(s.Files, "file", "files"), showCount(s.Chunks, "chunk", "chunks"), showCount(int64(s.Packs), "pack", "packs"))
	wal := showCount(s.WALFiles, "file", "files") + " of WAL"
	switch {
	case !s.ReadData:
		return text + fmt.Sprintf("(%s) are there; --read-data reads them", showBytes(s.PackBytes))
	case s.Slices == 1:
		return text + fmt.Sprintf("(%s) and %s are intact, every byte was read", showBytes(s.PackBytes), wal)
	}
	text += fmt.Sprintf("(%s) are there; slice %d of %d was read, %s and %s, and is intact", showBytes(s.PackBytes), s.Slice, s.Slices, showBytes(s.ReadBytes), wal)
	if s.AllSince != nil {
		return text + "; everything was read since " + showJSONTime(*s.AllSince)
	}
	return text + fmt.Sprintf("; %s were not read yet", showCount(int64(seen.left(s.Slices)), "slice", "slices"))
}

func (v *verifyRun) showDamage(d *damageJSON) error {
	if d.Snapshots == nil {
		d.Snapshots = []string{}
	}
	if d.Files == nil {
		d.Files = []string{}
	}
	if v.settings.JSON {
		if err := v.out.object(d); err != nil {
			return err
		}
	}
	kind := "damaged"
	if d.Type == "lost" {
		kind = "lost"
	}
	v.out.line("", "%s: %s", kind, damageText(d))
	return nil
}

const maxChunksNamed = 20

func damageText(d *damageJSON) string {
	text := d.Object + ": " + d.Error
	if len(d.Snapshots) > 0 {
		text += "; needed by " + strings.Join(d.Snapshots, ", ")
	}
	if len(d.Files) > 0 {
		text += "; for " + strings.Join(d.Files, ", ")
	}
	if d.MoreFiles > 0 {
		text += fmt.Sprintf(" and %d more", d.MoreFiles)
	}
	if n := len(d.Chunks); n > 0 {
		text += ": " + strings.Join(d.Chunks[:min(n, maxChunksNamed)], ", ")
		if n > maxChunksNamed {
			text += fmt.Sprintf(" and %d more", n-maxChunksNamed)
		}
	}
	if b := d.Breaks; b != nil {
		text += fmt.Sprintf("; no recovery on timeline %d comes across %s to %s", b.Timeline, b.FromLSN, b.ToLSN)
	}
	return text
}

// concernedBy gives the snapshots that damage concerns, in order.
func concernedBy(damage []damageJSON) (ids []string) {
	for i := range damage {
		ids = append(ids, damage[i].Snapshots...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// failure sums the damage up: which snapshots are concerned, and which are not.
func (v *verifyRun) failure() error {
	err := fmt.Errorf("verify: %s damaged, %d of %s concerned", showCount(int64(len(v.damage)), "object is", "objects are"),
		len(concernedBy(v.damage)), showCount(int64(len(v.snapshots)), "snapshot", "snapshots"))
	return withHint(classified{err, repo.ErrDamaged}, "%s", v.advice())
}

func (v *verifyRun) advice() string {
	is := func(kind func(d damageJSON) bool) bool { return slices.ContainsFunc(v.damage, kind) }
	settled := func(d damageJSON) bool { return d.given || d.unnamed } // a repair would find nothing in it
	switch {
	case v.rebuilds || is(func(d damageJSON) bool { return d.index }):
		return "`pgtrove rebuild-index` makes the index anew from the packs; then verify again"
	case v.repaired != nil && len(v.repaired.Marked)+len(v.repaired.Known) > 0:
		return v.repairHint()
	case is(settled) && !is(func(d damageJSON) bool { return !settled(d) && !strings.HasPrefix(d.Object, "wal") }):
		return v.givenUpHint()
	case is(func(d damageJSON) bool { return !strings.HasPrefix(d.Object, "wal") }):
		return "`pgtrove verify --repair` keeps what is sound of it, and the next backup stores again what the cluster still has"
	}
	if i := slices.IndexFunc(v.damage, func(d damageJSON) bool { return strings.HasSuffix(d.Object, ".history") }); i >= 0 {
		return fmt.Sprintf("remove %s from the storage and bring the file from a server's pg_wal once more, with `pgtrove wal push`, or copy it back from a copy of the repository; "+
			"until then nothing can be recovered on its timeline", v.damage[i].Object)
	}
	if len(v.walLost) > 0 {
		return fmt.Sprintf("if the server still has the segments in pg_wal, or another archive does, `pgtrove wal push` brings them back; else take a new backup, "+
			"and give up what cannot be recovered with `pgtrove forget %s`", strings.Join(v.walLost, " "))
	}
	return "take a new backup: from its start on recovery needs no older WAL"
}
