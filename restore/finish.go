package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/snapshot"
)

// finish makes the files that no snapshot holds, and pg_control last.
func (r *runner) finish(ctx context.Context) error {
	if r.control == nil || r.root.mode == 0 {
		return fmt.Errorf("%w: it holds no data directory with %s", ErrMismatch, pg.ControlPath)
	}
	if r.o.Events.Syncing != nil {
		r.o.Events.Syncing(r.report.Dir)
	}
	if err := r.ownDirs(); err != nil {
		return err
	}
	if err := r.wal(ctx); err != nil {
		return err
	}
	if err := r.label(); err != nil {
		return err
	}
	if err := r.recovery(); err != nil {
		return err
	}
	control, err := r.controlFile(ctx)
	if err != nil {
		return fmt.Errorf("restore %s: %w", pg.ControlPath, err)
	}
	if err := r.finishDirs(); err != nil {
		return err
	}
	path := r.path(pg.ControlPath)
	a := r.layout.attributes(r.control)
	if err := r.write(pg.ControlPath, control, a.mode); err != nil {
		return err
	}
	r.written(r.control.Size)
	if err := os.Chtimes(path, a.mtime, a.mtime); err != nil {
		return fmt.Errorf("finish %s: %w", path, err)
	}
	if err := os.Remove(r.path(Marker)); err != nil {
		return fmt.Errorf("finish %s: %w", r.report.Dir, err)
	}
	if err := durable.SyncDir(r.report.Dir); err != nil {
		return fmt.Errorf("finish %s: %w", r.report.Dir, err)
	}
	return nil
}

func (r *runner) path(rel string) string { return filepath.Join(r.report.Dir, rel) }

// ownDirs makes the directories that every data directory has, where the snapshot has them not.
func (r *runner) ownDirs() error {
	for _, dir := range []string{
		"pg_wal", "pg_wal/archive_status", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots",
		"pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_commit_ts", "pg_stat",
	} {
		p, err := r.layout.locate(snapshot.DataRoot + "/" + dir)
		if err != nil {
			return err
		}
		err = p.root.Mkdir(p.rel, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", p.path(), err)
		}
		r.dirs = append(r.dirs, finished{p, r.root})
	}
	return nil
}

// fileMode is what PostgreSQL gives a file of its own: the group may read it if it may read the data directory
// (SetDataDirectoryCreatePerm in file_perm.c).
func (r *runner) fileMode() os.FileMode {
	if r.root.mode&0o050 == 0o050 {
		return 0o640
	}
	return 0o600
}

// write makes a file of ours, durable, owned like the data directory.
func (r *runner) write(rel string, content []byte, mode os.FileMode) error {
	path := r.path(rel)
	if err := durable.Replace(path, mode, content); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if r.root.owner.uid < 0 {
		return nil
	}
	if err := os.Chown(path, r.root.owner.uid, r.root.owner.gid); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// wal puts the WAL that makes the snapshot consistent into pg_wal, where the server looks when it is not told to
// recover from an archive.
func (r *runner) wal(ctx context.Context) error {
	if r.o.FetchWAL == nil {
		return nil
	}
	for _, name := range r.o.WAL {
		content, err := r.o.FetchWAL(ctx, name)
		if err != nil {
			return fmt.Errorf("restore WAL: %w", err)
		}
		if err := r.write("pg_wal/"+filepath.Base(name), content, r.fileMode()); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) label() error {
	m := r.o.Snapshot
	if err := r.write("backup_label", m.BackupLabel, r.fileMode()); err != nil {
		return err
	}
	if len(m.TablespaceMap) == 0 {
		return nil
	}
	return r.write("tablespace_map", r.layout.dest.tablespaceMap(m.TablespaceMap), r.fileMode())
}

// recovery makes the settings and the signal file.
func (r *runner) recovery() error {
	if r.o.Recovery == nil && !r.o.ArchiveOff {
		return nil
	}
	path := r.path(autoConf)
	old, err := r.readConf(snapshot.DataRoot + "/" + autoConf)
	if err != nil {
		return err
	}
	mode := r.fileMode()
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		mode = info.Mode().Perm()
	}
	conf := old
	if r.o.Recovery != nil {
		stale, err := r.staleSettings()
		if err != nil {
			return err
		}
		if conf, err = r.o.Recovery.configure(old, r.o.Snapshot.ID, stale); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	if r.o.ArchiveOff {
		conf = archiveOff(conf)
	}
	if err := r.write(autoConf, conf, mode); err != nil || r.o.Recovery == nil {
		return err
	}
	return r.write(r.o.Recovery.signal(), nil, r.fileMode())
}

// archiveOff adds the setting at the end, where it wins over every other file.
func archiveOff(conf []byte) []byte {
	if len(conf) > 0 && conf[len(conf)-1] != '\n' {
		conf = append(conf, '\n')
	}
	return append(conf, "# By pgtrove: this is a copy, and does not archive\narchive_mode = 'off'\n"...)
}

// maxConf bounds what is read of a configuration file.
const maxConf = 16 << 20

// readConf reads what a file of the listing has become; nothing where it is not there or no file.
func (r *runner) readConf(listed string) ([]byte, error) {
	p, err := r.layout.locate(listed)
	if err != nil {
		return nil, err
	}
	info, err := p.root.Lstat(p.rel)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() > maxConf) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	b, err := p.root.ReadFile(p.rel)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return b, nil
}

// note remembers configuration files, and for the report what is not where it was.
func (r *runner) note(e *snapshot.Entry) {
	if e.Type == snapshot.File && strings.HasSuffix(e.Path, ".conf") && e.Path != snapshot.DataRoot+"/"+autoConf {
		r.confs = append(r.confs, e.Path)
	}
	if e.Link == "" || e.Type == snapshot.Symlink || e.Type == snapshot.Tablespace || r.isLinked(e) {
		return
	}
	m := Moved{From: e.Link, To: r.layout.shown(e.Path)}
	switch {
	case strings.HasPrefix(e.Path, snapshot.DataRoot):
		r.report.Links = append(r.report.Links, m)
	case e.Type == snapshot.File:
		r.report.Config = append(r.report.Config, m)
	}
}

// staleSettings returns the recovery settings that the restored configuration files make, wherever they lay, and whether the server
// reads them or not: it may include them. They would count beside ours unless ours are set, even if to nothing.
func (r *runner) staleSettings() ([]string, error) {
	var names []string
	for _, file := range r.confs {
		b, err := r.readConf(file)
		if err != nil {
			return nil, err
		}
		names = append(names, set(b)...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// controlFile reads the control file out of the repository and makes sure that it is this cluster's.
func (r *runner) controlFile(ctx context.Context) ([]byte, error) {
	b, err := readFile(ctx, r.c, r.control)
	if err != nil {
		return nil, err
	}
	c, err := pg.ParseControl(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	if c.SystemID != r.o.Snapshot.Server.SystemID {
		return nil, fmt.Errorf("%w: it is of system %s, the snapshot of %s", ErrMismatch, c.SystemID, r.o.Snapshot.Server.SystemID)
	}
	return b, nil
}

// maxSmall bounds files that are read into memory.
const maxSmall = 1 << 20

// readFile reads a small file of a snapshot.
func readFile(ctx context.Context, c *source, e *snapshot.Entry) ([]byte, error) {
	if e.Size > maxSmall {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrMismatch, e.Path, e.Size)
	}
	extents, err := snapshot.LoadRecipe(ctx, c, e.Recipe)
	if err != nil {
		return nil, err
	}
	p := newPlan()
	if _, err := p.add(ctx, c, 0, e.Size, extents, nil); err != nil {
		return nil, err
	}
	b := make([]byte, e.Size)
	put := func(uses []use, plain []byte) error {
		for _, u := range uses {
			copy(b[u.at:], plain[u.from:u.from+u.n])
		}
		return nil
	}
	err = p.run(ctx, c, 1, nil, put, func(err error, _ group) error { return err })
	return b, err
}

// finishDirs gives directories their attributes, the innermost first, and makes the names in them durable.
func (r *runner) finishDirs() error {
	for _, d := range slices.Backward(r.dirs) {
		if err := d.finishDir(); err != nil {
			return fmt.Errorf("finish %s: %w", d.path(), err)
		}
	}
	for _, l := range r.layout.dest.links {
		if l.dir {
			continue // one of r.dirs
		}
		if err := durable.SyncDir(filepath.Dir(l.to)); err != nil {
			return fmt.Errorf("finish %s: %w", l.to, err)
		}
	}
	return nil
}

func (f *finished) finishDir() error {
	dir, err := f.root.Open(f.rel)
	if err != nil {
		return err
	}
	return errors.Join(f.apply(f.place, dir), dir.Sync(), dir.Close())
}
