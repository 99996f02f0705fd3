package walarchive

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// Push stores a file under PostgreSQL's name for it. On nil it is durable; same says that it was there before with the
// same content. ErrConflict: it is there with other content, which stays. ErrInvalid: name, content and facts do not
// go together. Whether a segment's pages are what its name says is for the caller to check first (walsource does).
func (a Archive) Push(ctx context.Context, file string, content []byte, f Facts) (same bool, err error) {
	n, err := ParseName(file)
	if err != nil {
		return false, err
	}
	if !n.Kind.archived() {
		return false, fmt.Errorf("%w: PostgreSQL archives no %s", ErrInvalid, file)
	}
	f.trim()
	h := Header{Kind: n.Kind, Cluster: a.Cluster, System: a.System, Timeline: n.Timeline, Name: file, Facts: f}
	switch n.Kind {
	case Segment, Partial:
		if len(content) != int(f.SegmentSize) {
			return false, fmt.Errorf("%w: %s has %d bytes, a segment has %d", ErrInvalid, file, len(content), f.SegmentSize)
		}
	case History:
		if _, err := pg.ParseHistory(n.Timeline, content); err != nil {
			return false, fmt.Errorf("%w: %s: %w", ErrInvalid, file, err)
		}
		h.Inline = content
	}
	return a.put(ctx, n, &h, content)
}

func (a Archive) put(ctx context.Context, n Name, h *Header, content []byte) (same bool, err error) {
	head, err := h.Marshal()
	if err != nil {
		return false, err
	}
	same, err = a.Objects.PutArchive(ctx, a.Key(n), head, content)
	if errors.Is(err, ErrConflict) {
		return false, fmt.Errorf("archive %s of system %s: %w: two servers write the same timeline of this cluster "+
			"(split brain), or one was set back to an earlier state; what the archive holds was kept", n.File, a.System, err)
	}
	if err != nil {
		return false, fmt.Errorf("archive %s: %w", n.File, err)
	}
	return same, nil
}

// trim drops restore points that a header has no room for: what a server archives must not fail for their sake. One
// without a name is no target for anybody.
func (f *Facts) trim() {
	var kept []RestorePoint
	for _, p := range f.RestorePoints {
		if p.Name != "" && len(p.Name) <= maxPointName {
			kept = append(kept, p)
		}
	}
	if len(kept) > maxRestorePoints {
		kept, f.Unsure = kept[len(kept)-maxRestorePoints:], true
	}
	f.RestorePoints = kept
}

// Fetch returns exactly what was pushed under the name, with one Get and no listing: PostgreSQL probes for timelines
// that do not exist. ErrNotExist: the archive does not hold it. ErrDamaged: it holds something that is not this file.
// A .partial file is only ever returned under its own name: it may end before the segment does.
func (a Archive) Fetch(ctx context.Context, file string) (*Header, []byte, error) {
	n, err := ParseName(file)
	if err == nil && !n.Kind.archived() {
		err = fmt.Errorf("%w: PostgreSQL archives no %s", ErrInvalid, file)
	}
	if err != nil {
		return nil, nil, err
	}
	return a.fetch(ctx, n)
}

// fetch is Fetch for files that are none of PostgreSQL's too.
func (a Archive) fetch(ctx context.Context, n Name) (*Header, []byte, error) {
	head, content, err := a.Objects.GetArchive(ctx, a.Key(n))
	if err != nil {
		return nil, nil, fmt.Errorf("fetch %s: %w", n.File, err)
	}
	h, err := a.parse(n, head, int64(len(content)))
	if err != nil {
		return nil, nil, err
	}
	if n.Kind.inline() && !bytes.Equal(h.Inline, content) {
		return nil, nil, fmt.Errorf("%w: content of %s differs from its header", ErrDamaged, n.File)
	}
	return h, content, nil
}

// Header returns a file's header, without its content. ErrNotExist and ErrDamaged as of Fetch.
func (a Archive) Header(ctx context.Context, file string) (*Header, error) {
	n, err := ParseName(file)
	if err != nil {
		return nil, err
	}
	head, size, err := a.Objects.ArchiveHeader(ctx, a.Key(n))
	if err != nil {
		return nil, fmt.Errorf("read header of %s: %w", file, err)
	}
	return a.parse(n, head, size)
}

// parse makes sure that the object is the one asked for: an object in another's place is damage.
func (a Archive) parse(n Name, head []byte, size int64) (*Header, error) {
	h, err := ParseHeader(head)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, n.File, err)
	case h.Cluster != a.Cluster || h.System != a.System || h.Name != n.File:
		return nil, fmt.Errorf("%w: in the place of %s of cluster %s, system %s, stands %s of cluster %s, system %s",
			ErrDamaged, n.File, a.Cluster, a.System, h.Name, h.Cluster, h.System)
	case (n.Kind == Segment || n.Kind == Partial) && size != int64(h.SegmentSize):
		return nil, fmt.Errorf("%w: %s has %d bytes, its header says %d", ErrDamaged, n.File, size, h.SegmentSize)
	case n.Kind == PartKind:
		if p, _ := parsePartName(n.File); size != p.To-p.From {
			return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, n.File, size)
		}
	}
	return h, nil
}
