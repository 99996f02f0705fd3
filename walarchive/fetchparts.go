package walarchive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/internal/pg"
)

// partJobs is how many parts are read at once.
const partJobs = 8

// FetchParts puts a segment together that the archive does not hold in full: what the receiver that came farthest has stored of it, and zeros
// up to its size. The header is that of the part that reaches farthest. Where the parts go away meanwhile, because the segment came, it is the
// segment.
//
// A part that is damaged counts as absent, and damaged (nil: nobody) is called with it. ErrNotExist: there is nothing from the segment's first
// byte on. ErrDamaged: there was, and none of it opens. ErrConflict: two receivers have stored different bytes for the same place.
func (a Archive) FetchParts(ctx context.Context, segment string, damaged func(file string, err error)) (*Header, []byte, error) {
	n, err := ParseName(segment)
	if err != nil {
		return nil, nil, err
	}
	if n.Kind != Segment {
		return nil, nil, fmt.Errorf("%w: %s is no segment", ErrInvalid, segment)
	}
	parts, err := a.listParts(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	r := partsReader{archive: a, damaged: damaged, parts: parts}
	h, content, err := r.read(ctx)
	if r.vanished {
		h, content, err := a.fetch(ctx, n)
		if !errors.Is(err, ErrNotExist) {
			return h, content, err
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("fetch parts of %s: %w", segment, err)
	}
	return h, content, nil
}

func (a Archive) listParts(ctx context.Context, segment Name) (parts []partName, err error) {
	prefix := a.Key(segment) + partSuffix
	err = a.Objects.List(ctx, prefix, func(key string, _ int64) error {
		if p, err := parsePartName(segment.File + partSuffix + key[len(prefix):]); err == nil {
			parts = append(parts, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list parts of %s: %w", segment.File, err)
	}
	return parts, nil
}

// partsReader puts one segment together.
type partsReader struct {
	archive  Archive
	damaged  func(file string, err error)
	parts    []partName // that may be read
	vanished bool       // parts that were listed are gone
	broken   error      // what is damaged
}

// read returns what there is. Each time that parts cannot be read, it begins anew without them.
func (r *partsReader) read(ctx context.Context) (*Header, []byte, error) {
	for {
		covers := coversOf(r.parts)
		switch {
		case len(covers) == 0 && r.broken != nil:
			return nil, nil, fmt.Errorf("there are parts, and none that opens: %w", r.broken)
		case len(covers) == 0:
			return nil, nil, ErrNotExist
		}
		h, content, ok, err := r.readCover(ctx, covers[0])
		if err != nil {
			return nil, nil, err
		}
		for _, other := range covers[1:] {
			if !ok {
				break
			}
			if ok, err = r.compare(ctx, other, covers[0], content); err != nil {
				return nil, nil, err
			}
		}
		if ok {
			return h, content, nil
		}
	}
}

// readCover reads what the cover has. false: some of it cannot be read, and is left out of the parts now.
func (r *partsReader) readCover(ctx context.Context, c cover) (last *Header, content []byte, ok bool, err error) {
	var size pg.SegmentSize
	ok, err = r.each(ctx, c[:1], func(_ int, h *Header, b []byte) error { // which says how long the segment is
		last, size = h, h.SegmentSize
		content = make([]byte, size)
		copy(content, b)
		return nil
	})
	if err != nil || !ok {
		return nil, nil, false, err
	}
	ok, err = r.each(ctx, c[1:], func(i int, h *Header, b []byte) error {
		part, done := c[i+1], c[i].To
		if h.SegmentSize != size {
			return fmt.Errorf("%w: %s and %s are of segments of different sizes", ErrConflict, c[0].file(), h.Name)
		}
		copy(content[done:part.To], b[done-part.From:])
		if i == len(c)-2 {
			last = h
		}
		return nil
	})
	return last, content, ok, err
}

// compare makes sure that the parts of another receiver say the same as the content that the farthest has. What it returns is as of readCover.
func (r *partsReader) compare(ctx context.Context, other, farthest cover, content []byte) (ok bool, err error) {
	return r.each(ctx, other, func(i int, h *Header, b []byte) error {
		p := other[i]
		if bytes.Equal(b, content[p.From:p.To]) {
			return nil
		}
		return fmt.Errorf("%w: receivers %s and %s have stored different bytes of this segment, see %s: two servers write the same timeline of this cluster "+
			"(split brain), or one was set back to an earlier state", ErrConflict, farthest[0].Receiver, p.Receiver, h.Name)
	})
}

// each reads parts, some at a time, and calls fn with the index of each that opens, from several goroutines. false: some do not, and are left
// out of the parts now.
func (r *partsReader) each(ctx context.Context, parts []partName, fn func(i int, h *Header, content []byte) error) (ok bool, err error) {
	failed := make([]error, len(parts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partJobs)
	for i, p := range parts {
		g.Go(func() error {
			n, err := ParseName(p.file())
			if err != nil {
				return err
			}
			h, content, err := r.archive.fetch(ctx, n)
			if unreadable(err) {
				failed[i] = err
				return nil
			}
			if err != nil {
				return err
			}
			return fn(i, h, content)
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	ok = true
	for i, err := range failed {
		if err == nil {
			continue
		}
		ok = false
		r.parts = slices.DeleteFunc(r.parts, func(p partName) bool { return p == parts[i] })
		if errors.Is(err, ErrNotExist) {
			r.vanished = true
			continue
		}
		if r.broken = errors.Join(r.broken, err); r.damaged != nil {
			r.damaged(parts[i].file(), err)
		}
	}
	return ok, nil
}
