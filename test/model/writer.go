package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/repo"
)

// tries is how often a backup that was fenced goes on in a new session.
const tries = 4

// writer backs up some of the pieces, in the way of a real backup: chunks by Bytes, their list by Meta, what is inherited after a
// look at Missing, and the listing's name as the manifest.
type writer struct {
	image   *image
	cluster string
	chunks  int // of the image's pieces
}

// backup is a job.
func (b *writer) backup(ctx context.Context, p *process) error {
	var want []int
	for i := range b.chunks {
		if p.pick(2) == 1 {
			want = append(want, i)
		}
	}
	if want == nil {
		want = []int{0}
	}
	inherit := p.chance(500)
	former := ""
	for range tries {
		var sid string
		var listing chunk.ID
		o := repo.SessionOptions{Cluster: b.cluster, Host: p.actor.name, Now: p.now, Former: former}
		err := p.w.repo.Write(ctx, o, func(ctx context.Context, s *repo.Session) (err error) {
			sid = s.ID()
			wal, own := b.begin(p)
			if listing, err = b.store(ctx, p, s, want, inherit); err != nil {
				return err
			}
			if wal, err = b.end(ctx, p, s, wal, own); err != nil {
				return err
			}
			manifest, err := json.Marshal(append(listing[:], wal.marshal()...))
			if err != nil {
				return err
			}
			return s.Commit(ctx, manifest)
		})
		switch {
		case err == nil:
			p.w.note(p.actor.name, "is told that "+sid+" is committed")
			p.w.oracle.committed(sid)
			return nil
		case p.dead.Load():
			return err
		case errors.Is(err, repo.ErrFenced):
			p.w.note(p.actor.name, "was fenced: "+err.Error())
			p.w.oracle.note(func() { p.w.oracle.tally.Fenced++ })
			former = sid
		default:
			return err
		}
	}
	return errors.New("fenced too often")
}

// store makes sure that everything of a snapshot is in the repository, and gives its listing.
func (b *writer) store(ctx context.Context, p *process, s *repo.Session, want []int, inherit bool) (chunk.ID, error) {
	if inherit {
		parent, pieces, err := b.parent(ctx, p, s)
		if err != nil {
			return parent, err
		}
		if pieces != nil {
			missing, err := s.Missing(ctx, parent, func(context.Context) ([]chunk.ID, error) {
				all := []chunk.ID{parent}
				for _, i := range pieces {
					all = append(all, b.image.ids[i])
				}
				return all, nil
			})
			if err != nil || len(missing) == 0 {
				return parent, err
			}
			want = pieces
		}
	}
	w, err := s.NewWriter()
	if err != nil {
		return chunk.ID{}, err
	}
	for _, i := range want {
		if _, err := w.Bytes(ctx, b.image.pieces[i]); err != nil {
			return chunk.ID{}, err
		}
		if p.chance(p.w.flush) {
			if err := s.Flush(ctx); err != nil {
				return chunk.ID{}, err
			}
		}
	}
	_, text := b.image.listing(want)
	return w.Meta(ctx, text)
}

// parent gives the listing of the cluster's newest snapshot and what stands in it; nothing if there is none that can be read.
func (b *writer) parent(ctx context.Context, p *process, s *repo.Session) (id chunk.ID, pieces []int, err error) {
	var last *repo.Commit
	if err := p.w.repo.Commits(ctx, b.cluster, func(c repo.Commit) error {
		last = &c
		return nil
	}); err != nil || last == nil {
		return id, nil, err
	}
	if id, err = parseManifest(last.Manifest); err != nil {
		return id, nil, err
	}
	text, err := s.MetaChunk(ctx, id)
	if errors.Is(err, repo.ErrMissing) {
		return id, nil, nil
	}
	if err != nil {
		return id, nil, err
	}
	ids, err := parseListing(text)
	for _, c := range ids {
		pieces = append(pieces, b.image.piece(c))
	}
	return id, pieces, err
}

// parseManifest gives the name of the listing that a snapshot consists of.
func parseManifest(manifest []byte) (id chunk.ID, err error) {
	var b []byte
	if err := json.Unmarshal(manifest, &b); err != nil {
		return id, fmt.Errorf("manifest %q: %w", manifest, err)
	}
	if len(b) != len(id)+walBytes {
		return id, fmt.Errorf("manifest of %d bytes", len(b))
	}
	return chunk.ID(b[:len(id)]), nil
}
