package pgsource

import (
	"io/fs"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/pgtrove/pgtrove/snapshot"
)

// identity tells whether two paths are one file.
type identity struct {
	device, inode uint64
}

func identityOf(st *unix.Stat_t) identity {
	return identity{device: uint64(st.Dev), inode: st.Ino}
}

func lstat(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &st, nil
}

// stat follows links.
func stat(path string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return &st, nil
}

// kind is the type of a file, S_IFREG and so on.
func kind(st *unix.Stat_t) uint32 { return uint32(st.Mode) & unix.S_IFMT }

// kindName names what cannot be stored.
func kindName(st *unix.Stat_t) string {
	switch kind(st) {
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFBLK, unix.S_IFCHR:
		return "device"
	}
	return "special file"
}

// owners looks each user and group up once.
type owners struct {
	users, groups map[uint32]string
}

func newOwners() owners {
	return owners{users: make(map[uint32]string), groups: make(map[uint32]string)}
}

// of returns the owner of a file. A name that the host does not know is empty.
func (o owners) of(st *unix.Stat_t) snapshot.Owner {
	u, ok := o.users[st.Uid]
	if !ok {
		if found, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10)); err == nil {
			u = found.Username
		}
		o.users[st.Uid] = u
	}
	g, ok := o.groups[st.Gid]
	if !ok {
		if found, err := user.LookupGroupId(strconv.FormatUint(uint64(st.Gid), 10)); err == nil {
			g = found.Name
		}
		o.groups[st.Gid] = g
	}
	return snapshot.Owner{UID: st.Uid, GID: st.Gid, User: u, Group: g}
}

// entry describes what st is about; Size counts for files only.
func (o owners) entry(path string, t snapshot.Type, st *unix.Stat_t) snapshot.Entry {
	e := snapshot.Entry{
		Path:  path,
		Type:  t,
		Mode:  uint32(st.Mode) & 07777,
		Owner: o.of(st),
		Stat: snapshot.Stat{
			ModTime:    st.Mtim.Nano(),
			ChangeTime: st.Ctim.Nano(),
			Device:     uint64(st.Dev),
			Inode:      st.Ino,
		},
	}
	if t == snapshot.File {
		e.Size = st.Size
	}
	return e
}
