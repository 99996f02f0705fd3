package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/snapshot"
)

// readLog remembers between runs, in the cache, what was read when, and what was damaged. Lost, it begins anew.
type readLog struct{ path string } // "": nothing is remembered

// remembered is what a readLog holds.
type remembered struct {
	Version int      `json:"version"`
	Read    coverage `json:"read"`
	Damaged []string `json:"damaged,omitempty"` // keys of objects that were damaged when they were read last, in order
}

// newReadLog is the log of what is in scope: a cluster, or all, or the snapshots that were named. place is where the repository is: a copy of it elsewhere
// has the same ID, and is read for itself.
func newReadLog(cacheDir, repository, place, cluster string, named []*snapshot.Manifest) readLog {
	if cacheDir == "" {
		return readLog{}
	}
	name := "_all" // no cluster is called so
	if cluster != "" {
		name = cluster
	}
	if len(named) > 0 {
		var ids []string
		for _, m := range named {
			ids = append(ids, m.ID)
		}
		slices.Sort(ids)
		name = "_" + shortHash(strings.Join(ids, " "))
	}
	return readLog{filepath.Join(cacheDir, repository, "_verify", name+"."+shortHash(place)+".json")}
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// load gives what is known at a time. What a clock that ran ahead has stamped counts as never read.
func (l readLog) load(now time.Time) (r remembered) {
	text, err := os.ReadFile(l.path)
	if l.path == "" || err != nil || json.Unmarshal(text, &r) != nil || r.Version != 1 {
		return remembered{}
	}
	for i, s := range r.Read {
		if s.From > s.To || i > 0 && s.From <= r.Read[i-1].To {
			return remembered{}
		}
	}
	r.Read = slices.DeleteFunc(r.Read, func(s stretch) bool { return s.Read.After(now) })
	return r
}

// add notes what a run has read, and returns all that is known then. looked says of a key whether the run would have found damage there: what
// it did not look at and was damaged stays so. Another run may have added something since this one began.
func (l readLog) add(s stretch, now time.Time, damaged []string, looked func(key string) bool) (remembered, error) {
	if l.path == "" {
		return remembered{}.with(s, damaged, looked), errors.New("there is no cache directory")
	}
	unlock, err := l.lock()
	if err != nil {
		return l.load(now).with(s, damaged, looked), err
	}
	defer unlock()
	r := l.load(now).with(s, damaged, looked)
	text, err := json.Marshal(r)
	if err != nil {
		return r, err
	}
	return r, durable.Replace(l.path, 0o600, text)
}

// lock waits until no other process of this host writes the log.
func (l readLog) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(l.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil // nothing was written to it
}

func (r remembered) with(s stretch, damaged []string, looked func(key string) bool) remembered {
	for _, key := range r.Damaged {
		if !looked(key) {
			damaged = append(damaged, key)
		}
	}
	slices.Sort(damaged)
	return remembered{Version: 1, Read: r.Read.with(s), Damaged: slices.Compact(damaged)}
}
