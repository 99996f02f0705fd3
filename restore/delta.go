package restore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// present is a data directory with content, which a delta restore turns into the snapshot's.
type present struct {
	links map[string]string // of pg_tblspc: OID to where it leads, absolute
	left  *mark             // of a restore that did not finish; nil: none
}

// existing makes sure that the directory, which is not empty, is one that a delta restore may change: no server runs in
// it, and it is this cluster's, or what a restore of this cluster left.
func (o *Options) existing(dir string) (*present, error) {
	left, err := readMark(dir)
	if err != nil {
		return nil, err
	}
	system := o.Snapshot.Server.SystemID.String()
	if left != nil && left.system != "" {
		if left.system != system {
			return nil, foreign(dir, left.system, system)
		}
	} else if err := checkVersionFile(dir); err != nil {
		return nil, err
	}
	global := filepath.Dir(pg.ControlPath)
	if to, err := os.Readlink(filepath.Join(dir, global)); err == nil {
		return nil, &RefusedError{
			Reason: fmt.Sprintf("%s is a link to %s: the control file can only be taken away from the data directory itself", filepath.Join(dir, global), to),
			Hint:   "move that directory to the link's place first; or restore into an empty or a new directory",
		}
	}
	found, err := systemOf(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && left != nil && left.system != "":
		// A restore writes it last.
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return nil, noDataDirectory(dir, pg.ControlPath)
	case err != nil:
		return nil, fmt.Errorf("look at the destination: %w", err)
	case found.String() != system:
		return nil, foreign(dir, found.String(), system)
	}
	for _, path := range o.Spare {
		if within(path, dir) || lies(path, dir) { // be it a link that leads out
			return nil, &RefusedError{
				Reason: fmt.Sprintf("%s lies in %s, and would be removed with what the snapshot has not", path, dir),
				Hint:   "move it elsewhere first; it must not be in a data directory",
			}
		}
	}
	p := &present{left: left}
	if p.links, err = spaceLinks(dir); err != nil {
		return nil, fmt.Errorf("look at the destination: %w", err)
	}
	return p, nil
}

func checkVersionFile(dir string) error {
	info, err := os.Lstat(filepath.Join(dir, "PG_VERSION"))
	if err == nil && info.Mode().IsRegular() {
		return nil
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return noDataDirectory(dir, "PG_VERSION")
	}
	return fmt.Errorf("look at the destination: %w", err)
}

func noDataDirectory(dir, lacks string) error {
	return &RefusedError{
		Reason: fmt.Sprintf("%s is not empty, and no data directory: it has no file %s", dir, lacks),
		Hint:   "--delta is for a data directory of the cluster that is restored; restore into an empty or a new directory",
	}
}

func foreign(dir, its, ours string) error {
	return &RefusedError{
		Reason: fmt.Sprintf("%s belongs to another cluster: its system identifier is %s, the snapshot's is %s", dir, its, ours),
		Hint:   "restore into another directory, or choose the snapshot of that cluster (`pgtrove snapshots`)",
	}
}

// systemOf reads the system identifier of a data directory. A control file that is damaged otherwise does: the
// identifier are its first 8 bytes, and that they are those of another cluster by accident cannot be.
func systemOf(dir string) (pg.SystemID, error) {
	f, err := os.Open(filepath.Join(dir, pg.ControlPath))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [8]byte
	if n, err := f.ReadAt(b[:], 0); n < len(b) {
		return 0, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return pg.SystemID(binary.LittleEndian.Uint64(b[:])), nil
}

// spaceLinks lists where the links of a data directory's pg_tblspc lead, by OID.
func spaceLinks(dir string) (map[string]string, error) {
	top := filepath.Join(dir, "pg_tblspc")
	entries, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	links := map[string]string{}
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 32); err != nil || e.Type() != fs.ModeSymlink {
			continue
		}
		to, err := os.Readlink(filepath.Join(top, e.Name()))
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(top, to)
		}
		links[e.Name()] = filepath.Clean(to)
	}
	return links, nil
}

// owns says whether a tablespace's directory is the data directory's own: its link leads there, or a restore that did not
// finish put it there.
func (p *present) owns(oid, path string) bool {
	if p == nil {
		return false
	}
	if p.left != nil && p.left.spaces[oid] == path {
		return true
	}
	to, ok := p.links[oid]
	return ok && (to == path || sameFile(to, path))
}

// succeeds says whether a tablespace goes where this data directory has one that the snapshot has not: it was made there when the
// snapshot's had been dropped, and goes.
func (d *destination) succeeds(s tablespace) bool {
	if d.present == nil {
		return false
	}
	for oid, to := range d.present.links {
		if _, stays := d.space(oid); !stays && sameFile(to, s.new) {
			return true
		}
	}
	return false
}

// lies says whether path is dir or below it, wherever links lead.
func lies(path, dir string) bool {
	for _, p := range []*string{&path, &dir} {
		if real, err := filepath.EvalSymlinks(*p); err == nil {
			*p = real
		}
	}
	return within(path, dir)
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// refuseLive is a refusal where a server runs in dir, or processes of one that died are left.
func refuseLive(dir string) error {
	hint := "restore into another directory, or stop the server first"
	if pid, live := livePostmaster(dir); live {
		return &RefusedError{
			Reason: fmt.Sprintf("a server is running in %s, process %d", dir, pid),
			Hint:   fmt.Sprintf("%s; if that process is another program, which got the number since, remove %s", hint, filepath.Join(dir, "postmaster.pid")),
		}
	}
	if n := orphans(dir); n > 0 {
		return &RefusedError{
			Reason: fmt.Sprintf("the server in %s has died, but %d of its processes still use its shared memory", dir, n),
			Hint:   "end them first: they may still write",
		}
	}
	return nil
}

// orphans counts the processes that are attached to the shared memory of a server that died: its backends outlive a
// postmaster that was killed, and write on. The seventh line of postmaster.pid names that memory (LOCK_FILE_LINE_SHMEM_KEY in
// pidfile.h; PGSharedMemoryIsInUse in sysv_shmem.c asks the same).
func orphans(dir string) uint64 {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	lines := bytes.Split(b, []byte("\n"))
	if len(lines) < 7 {
		return 0
	}
	var key, id int
	if _, err := fmt.Sscan(string(lines[6]), &key, &id); err != nil {
		return 0
	}
	return attached(key, id)
}

// serverUsing finds a data directory with a live server, not dir, that has the directory path as a tablespace. It sees
// what /proc shows to this account: all as root, and as postgres other servers of that account.
func serverUsing(path, dir string) string {
	cwds, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return ""
	}
	seen := map[string]bool{}
	for _, link := range cwds {
		cwd, err := os.Readlink(link)
		if err != nil || seen[cwd] || sameFile(cwd, dir) {
			continue
		}
		seen[cwd] = true
		if _, live := livePostmaster(cwd); !live {
			continue
		}
		links, err := spaceLinks(cwd)
		if err != nil {
			continue
		}
		for _, to := range links {
			if sameFile(to, path) {
				return cwd
			}
		}
	}
	return ""
}

// checkOwnSpace makes sure that a tablespace's directory with content may be changed.
func (d *destination) checkOwnSpace(s tablespace) error {
	user := serverUsing(s.new, d.dir)
	if user == "" {
		return nil
	}
	return &RefusedError{
		Reason: fmt.Sprintf("tablespace %s cannot stay at %s: the server that runs in %s has it, too", s.oid, s.new, user),
		Hint:   fmt.Sprintf("this data directory is a copy whose links lead to the original's. Say where it shall go: --tablespace %s=/new/directory", s.oid),
	}
}

// versionDir says whether a name is that of the directory which servers of the major version have in a tablespace
// (TABLESPACE_VERSION_DIRECTORY in relpath.h).
func versionDir(name string, major int) bool {
	rest, ok := strings.CutPrefix(name, fmt.Sprintf("PG_%d_", major))
	if !ok {
		return false
	}
	_, err := strconv.ParseUint(rest, 10, 32)
	return err == nil
}
