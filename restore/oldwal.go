package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// unarchived says whether a file of pg_wal is WAL, or a history file, that is not in the archive. That its server took it for
// archived (.done) is not enough: a standby notes that of all that it received by streaming (XLogWalRcvClose in walreceiver.c), and
// when its primary is lost it may have the only copy. Segments that were recycled for later use have a name to come and old
// content; their first page tells.
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
	_, err = p.root.Lstat(filepath.Join(filepath.Dir(p.rel), "archive_status", name+".done"))
	if err == nil && (r.o.Archived == nil || r.o.Archived(name)) {
		return false, nil
	}
	info, err := p.root.Lstat(p.rel)
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	if kind == pg.KindHistory {
		return true, nil
	}
	size := pg.SegmentSize(info.Size()) // which may have changed since the snapshot (pg_resetwal)
	if int64(size) != info.Size() || !size.Valid() {
		size = r.o.Snapshot.Server.WALSegmentSize
	}
	segment, err := pg.ParseSegment(strings.TrimSuffix(name, ".partial"), size)
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
	return pg.LSN(binary.LittleEndian.Uint64(head[8:])) == segment.Start(size), nil
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
	data := r.layout.data
	if err := data.Mkdir(snapshot.UnarchivedDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	if info, err := data.Lstat(snapshot.UnarchivedDir); err != nil || !info.IsDir() {
		return false, fmt.Errorf("%s is no directory", snapshot.UnarchivedDir)
	}
	if r.root.owner.uid >= 0 {
		if err := data.Lchown(snapshot.UnarchivedDir, r.root.owner.uid, r.root.owner.gid); err != nil {
			return false, err
		}
	}
	to := filepath.Join(snapshot.UnarchivedDir, filepath.Base(p.rel))
	for n := 1; ; n++ {
		if _, err := data.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = filepath.Join(snapshot.UnarchivedDir, fmt.Sprintf("%s.%d", filepath.Base(p.rel), n))
	}
	if p.root == data {
		if err := data.Rename(p.rel, to); !errors.Is(err, unix.EXDEV) {
			return true, err
		}
	}
	return true, r.carry(p, to)
}

// carry moves a file to another file system: pg_wal may be a mount point, or be behind a link (Options.LinkAll). It is durable there
// before it goes here.
func (r *runner) carry(p place, to string) error {
	data, half := r.layout.data, filepath.Join(snapshot.UnarchivedDir, durable.TempPrefix+filepath.Base(p.rel))
	from, err := p.root.Open(p.rel)
	if err != nil {
		return err
	}
	defer from.Close() // only read
	f, err := data.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err == nil && r.root.owner.uid >= 0 {
		err = f.Chown(r.root.owner.uid, r.root.owner.gid)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := data.Rename(half, to); err != nil {
		return err
	}
	if err := errors.Join(durable.SyncDir(r.path(snapshot.UnarchivedDir)), durable.SyncDir(r.report.Dir)); err != nil {
		return err
	}
	return p.root.Remove(p.rel)
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
