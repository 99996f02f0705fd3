package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// unarchived says whether a file of pg_wal is WAL, or a history file, that its server had not archived. Segments that were
// recycled for later use have a name to come and old content; their first page tells.
func (r *runner) unarchived(p place) (bool, error) {
	name := filepath.Base(p.rel)
	kind, err := pg.ClassifyWALFile(name)
	if err != nil || kind == pg.KindBackup {
		return false, nil
	}
	// What an earlier run of this restore put there came from the archive.
	if r.layout.dest.present.left != nil && slices.Contains(r.o.WAL, name) {
		return false, nil
	}
	if _, err := p.root.Lstat(filepath.Join(filepath.Dir(p.rel), "archive_status", name+".done")); err == nil {
		return false, nil
	}
	info, err := p.root.Lstat(p.rel)
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	if kind == pg.KindHistory {
		return true, nil
	}
	segment, err := pg.ParseSegment(strings.TrimSuffix(name, ".partial"), r.o.Snapshot.Server.WALSegmentSize)
	if err != nil {
		return false, nil
	}
	f, err := p.root.Open(p.rel)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var head [16]byte // XLogPageHeaderData: magic, info, timeline, address
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return false, nil
	}
	return pg.LSN(binary.LittleEndian.Uint64(head[8:])) == segment.Start(r.o.Snapshot.Server.WALSegmentSize), nil
}

// rescue moves WAL that was never archived out of pg_wal, where recovery would mistake it for the archive's.
func (r *runner) rescue(p place) (moved bool, err error) {
	keep, err := r.unarchived(p)
	if err != nil || !keep {
		return false, err
	}
	r.report.Unarchived++
	if r.dry != nil {
		return true, nil
	}
	if err := p.root.Mkdir(snapshot.UnarchivedDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	if info, err := p.root.Lstat(snapshot.UnarchivedDir); err != nil || !info.IsDir() {
		return false, fmt.Errorf("%s is no directory", snapshot.UnarchivedDir)
	}
	if r.root.owner.uid >= 0 {
		if err := p.root.Lchown(snapshot.UnarchivedDir, r.root.owner.uid, r.root.owner.gid); err != nil {
			return false, err
		}
	}
	to := filepath.Join(snapshot.UnarchivedDir, filepath.Base(p.rel))
	for n := 1; ; n++ {
		if _, err := p.root.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = filepath.Join(snapshot.UnarchivedDir, fmt.Sprintf("%s.%d", filepath.Base(p.rel), n))
	}
	return true, p.root.Rename(p.rel, to)
}

// swept is for the end of the listing: what the snapshot has not is gone, and WAL that was moved aside is durable there.
func (r *runner) swept() error {
	if err := r.sweep.end(); err != nil {
		return err
	}
	if r.report.Unarchived == 0 || r.dry != nil {
		return nil
	}
	return durable.SyncDir(r.path(snapshot.UnarchivedDir))
}
