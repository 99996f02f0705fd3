package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walarchive"
)

// receiversCache remembers whether an archive has parts of segments, so that an absent file costs one request where nobody receives WAL. That none
// are there is believed for a minute; who begins to receive waits for longer before it relies on them (wal receive). Only wal fetch uses
// it, and only for storage that costs a request.
type receiversCache struct {
	dir string // "" is none
	now func() time.Time
}

const (
	receiversThere = "receivers: yes\n"
	receiversNone  = "receivers: no\n"
)

func (c receiversCache) path(o walahead.Owner) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %s", o.Place, o.Repository, o.Cluster, o.System))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:16]))
}

// find gives what is known; known is false where nothing is.
func (c receiversCache) find(o walahead.Owner) (there, known bool) {
	if c.dir == "" {
		return false, false
	}
	path := c.path(o)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false, false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return false, false
	}
	age := c.now().Sub(info.ModTime())
	switch string(text) {
	case receiversThere:
		return true, age >= 0 && age < reopened
	case receiversNone:
		return false, age >= 0 && age < believed
	}
	return false, false
}

// keep remembers what was so at that time. Where that fails the next call asks again.
func (c receiversCache) keep(o walahead.Owner, there bool, asOf time.Time) {
	if c.dir == "" {
		return
	}
	text := receiversNone
	if there {
		text = receiversThere
	}
	path := c.path(o)
	if os.MkdirAll(c.dir, 0o700) == nil && durable.Replace(path, 0o600, []byte(text)) == nil {
		_ = os.Chtimes(path, asOf, asOf) // a file server has a clock of its own
	}
}

// fetchReceived returns what was received of a segment that the archive does not hold in full. ErrNotExist: nothing.
func (o openedArchive) fetchReceived(ctx context.Context, segment string, damaged func(file string, err error)) (*walarchive.Header, []byte, error) {
	there, known := o.receivers.find(o.owner)
	if !known {
		asked, err := o.receivers.now(), error(nil)
		if there, err = o.Received(ctx); err != nil {
			return nil, nil, err
		}
		o.receivers.keep(o.owner, there, asked)
	}
	if !there {
		return nil, nil, fmt.Errorf("fetch %s: %w", segment, walarchive.ErrNotExist)
	}
	return o.FetchParts(ctx, segment, damaged)
}

// tellDamagedPart warns of what was received and cannot be read.
func (a *app) tellDamagedPart(file string, err error) {
	if !errors.Is(err, walarchive.ErrNotExist) {
		a.out.warn("a part of a WAL segment counts as absent, what was received after it may be lost: %s: %v", file, err)
	}
}
