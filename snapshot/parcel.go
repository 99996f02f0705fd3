package snapshot

import (
	"context"

	"github.com/pgtrove/pgtrove/chunk"
)

// parcel is a chunk on its way from the worker that gathered it to one that stores it. It owns its buffers.
type parcel struct {
	path    string
	form    chunk.Form
	digests []chunk.Digest
	pages   []byte
}

// send stores the gathered pages as a chunk and returns its name. Where another worker waits for something to do, that one stores
// it; the buffers then go along, and f gets others. What fails there ends the whole of Take.
func (f *increment) send(ctx context.Context) (chunk.ID, error) {
	g, w := &f.gather, f.w
	id := w.hasher.RunID(g.digests)
	p := &parcel{path: f.src.Path, form: f.form, digests: g.digests, pages: g.pages}
	select {
	case w.parcels <- p: // p is not ours any more
		select {
		case used := <-w.used:
			g.digests, g.pages = used.digests[:0], used.pages[:0]
		default:
			g.digests, g.pages = nil, make([]byte, 0, cap(g.pages))
		}
		return id, nil
	default:
	}
	_, err := w.store.Pages(ctx, f.form, g.digests, g.pages)
	g.digests, g.pages = g.digests[:0], g.pages[:0]
	return id, err
}

// deliver stores a chunk for another worker.
func (w *worker) deliver(ctx context.Context, p *parcel) error {
	_, err := w.store.Pages(ctx, p.form, p.digests, p.pages)
	select {
	case w.used <- p: // its buffers serve again
	default:
	}
	return err
}
