package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// unixUser is who owns the clusters. A PostgreSQL server refuses to run as root.
type unixUser struct {
	uid, gid int
	switchTo bool // the caller is root: child processes change to this user
}

func serverUser() (unixUser, error) {
	if os.Geteuid() != 0 {
		return unixUser{uid: os.Getuid(), gid: os.Getgid()}, nil
	}
	for _, name := range []string{"postgres", "pgtrove-test"} {
		u, err := user.Lookup(name)
		var unknown user.UnknownUserError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return unixUser{}, fmt.Errorf("look up user %s: %w", name, err)
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		return unixUser{uid: uid, gid: gid, switchTo: true}, errors.Join(err1, err2)
	}
	return unixUser{}, errors.New("servers refuse to run as root, and there is no user postgres or pgtrove-test: run make setup")
}

// sysProcAttr makes a child run as u, and die with the test program: a test
// binary killed by its timeout runs no cleanup. The signal is sent when the
// thread that started the child ends; Go keeps its threads.
func (u unixUser) sysProcAttr(death syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: death}
	if u.switchTo {
		attr.Credential = &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.gid)}
	}
	return attr
}
