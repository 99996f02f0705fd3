package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
)

// baseline is what a backup is compared with, so that it stores, and where it may reads, only what changed.
type baseline struct {
	manifest *snapshot.Manifest // of the parent; nil: there is none
	parent   *snapshot.Parent
	known    *snapshot.Known   // what an unfinished backup left; nil: nothing
	changes  *pgsource.Changes // what WAL summaries say; nil: nothing

	readsFiles  string // why every file is read; "": unchanged files are skipped
	readsBlocks string // why changed files are read in full; "": summaries say which pages changed
}

// findBaseline looks what there is to compare with. What is not there, or lost, costs time and nothing else.
func (b *backupRun) findBaseline(ctx context.Context, s *repo.Session, backup *pgsource.Backup) (*baseline, error) {
	l, err := b.ownBaseline(ctx, s)
	if err != nil {
		return nil, err
	}
	if l.manifest == nil {
		if l.manifest, err = b.chooseParent(ctx, s); err != nil {
			return nil, err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if l.manifest != nil && l.parent == nil {
			l.parent, err = b.loadParent(gctx, s, l.manifest)
		}
		return err
	})
	g.Go(func() (err error) {
		l.known, err = b.findKnown(gctx, s)
		return err
	})
	g.Go(func() error { return b.askServer(gctx, l, backup) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	switch {
	case l.parent == nil:
		l.changes = nil
		if l.manifest == nil {
			l.readsFiles = "it is the first snapshot of this cluster"
		} else {
			l.readsFiles = "the listing of the last snapshot cannot be read"
		}
	case l.readsFiles == "":
		l.parent.Trusted = true
	}
	return l, nil
}

// ownBaseline is what this run itself has just read, if that was fenced, as far as it is there still: a prune may have condemned its
// listing with the rest. What is compared is found by the listing, but what is referred to is looked up in the session's view.
func (b *backupRun) ownBaseline(ctx context.Context, s *repo.Session) (*baseline, error) {
	if b.fenced == nil {
		return &baseline{}, nil
	}
	m := b.fenced.manifest
	p, err := snapshot.LoadParent(ctx, m, s)
	if isLoss(err) {
		b.out.detail("session %s cannot be built upon: %v", m.ID, err)
		b.fenced = nil
		return &baseline{}, nil
	}
	if err != nil {
		return nil, err
	}
	p.IsLoss = isLoss
	return &baseline{manifest: m, parent: p}, nil
}

// chooseParent returns the newest snapshot of this cluster that the session can build upon; nil if there is none.
func (b *backupRun) chooseParent(ctx context.Context, s *repo.Session) (*snapshot.Manifest, error) {
	return newestSeen(ctx, b.repo, s, b.name, b.cluster.Info().SystemID)
}

// newestSeen returns the newest snapshot of a cluster and system that the session's view knows; nil if there is none. The view was loaded
// before the server made its checkpoint: what another host has committed under the same name since is not in it, and would look lost.
func newestSeen(ctx context.Context, r *repo.Repo, s *repo.Session, cluster string, system pg.SystemID) (*snapshot.Manifest, error) {
	return newestSnapshot(ctx, r, cluster, func(m *snapshot.Manifest) bool { return s.Saw(m.ID) && m.Server.SystemID == system })
}

// loadParent reads the parent's listing. One that is damaged is as if there were none: this backup may be what repairs the loss.
func (b *backupRun) loadParent(ctx context.Context, s *repo.Session, m *snapshot.Manifest) (*snapshot.Parent, error) {
	p, err := snapshot.LoadParent(ctx, m, s)
	if isLoss(err) {
		b.out.warn("%v; so everything is read, and what is lost is stored again. Run `pgtrove verify`", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p.IsLoss = isLoss
	return p, nil
}

// isLoss tells what is gone or damaged from a storage that does not answer.
func isLoss(err error) bool {
	return errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrMissing) || errors.Is(err, repo.ErrVersion) || errors.Is(err, snapshot.ErrInvalid)
}

// findKnown collects the pages that unfinished backups of this cluster have uploaded.
func (b *backupRun) findKnown(ctx context.Context, s *repo.Session) (*snapshot.Known, error) {
	form := chunk.Form(bits.TrailingZeros(uint(b.cluster.Info().Layout.BlockSize)))
	k := &snapshot.Known{}
	err := s.Leftovers(ctx, func(id chunk.ID, f chunk.Form, digests []chunk.Prefix) error {
		if f == form {
			k.Add(id, digests)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what an unfinished backup left: %w", err)
	}
	if k.Pages() == 0 {
		return nil, nil
	}
	b.out.info("an unfinished backup has uploaded %s of pages; those that are still the same are used", showBytes(int64(k.Pages())<<form))
	return k, nil
}

// askServer finds out what may be skipped.
func (b *backupRun) askServer(ctx context.Context, l *baseline, backup *pgsource.Backup) error {
	if l.manifest == nil {
		return nil
	}
	if b.o.paranoid {
		l.readsFiles = "--paranoid asks for it"
		return nil
	}
	switch err := b.vouch(ctx, l.manifest, backup); {
	case errors.Is(err, pgsource.ErrNotVouched):
		l.readsFiles = err.Error()
		return nil
	case err != nil:
		return err
	}
	if b.cluster.Info().Major() < 17 {
		return nil
	}
	var err error
	l.changes, err = backup.Changes(ctx, l.manifest)
	if errors.Is(err, pgsource.ErrNoSummaries) {
		l.readsBlocks = err.Error()
		return nil
	}
	return err
}

func (b *backupRun) vouch(ctx context.Context, parent *snapshot.Manifest, backup *pgsource.Backup) error {
	if b.fenced != nil {
		return backup.VouchNext(ctx, parent, b.fenced.backup)
	}
	return backup.Vouch(ctx, parent, b.repo.Config().ID)
}

// lost tells that a file is stored as if it were new.
func (b *backupRun) lost(path string, err error) {
	b.out.warn("%s is stored anew, because what the last snapshot has of it cannot be used: %v", strings.TrimPrefix(path, snapshot.DataRoot+"/"), err)
}

// leaveMark notes in the data directory which snapshot it has now: the next backup may then skip what did not change since.
func (b *backupRun) leaveMark(id string) {
	err := b.cluster.SetLastSnapshot(b.repo.Config().ID, b.name, id)
	switch {
	case errors.Is(err, fs.ErrPermission):
		b.out.warn("cannot write %s in the data directory, so the next backup will read every file: %v", pgsource.LastBackupFile, err)
	case err != nil:
		b.out.warn("the next backup will read every file: %v", err)
	}
}

// effort says what was read and what was not, and why.
func (b *backupRun) effort() string {
	t := b.manifest.Totals
	text := fmt.Sprintf("  read %s", summaryRate(t.Read, b.took))
	var skipped []string
	if n := t.Skipped.FileBytes; n > 0 {
		skipped = append(skipped, fmt.Sprintf("%s in %s not touched since the last snapshot", showBytes(n), showCount(t.Skipped.Files, "file", "files")))
	}
	if n := t.Skipped.BlockBytes; n > 0 {
		skipped = append(skipped, fmt.Sprintf("%s of pages that no WAL summary lists", showBytes(n)))
	}
	switch {
	case len(skipped) > 0:
		text += "; skipped " + strings.Join(skipped, " and ")
	case b.base.readsFiles != "":
		text += "; nothing was skipped: " + b.base.readsFiles
	default:
		text += "; nothing could be skipped"
	}
	if b.base.readsFiles == "" && b.base.readsBlocks != "" {
		text += "; changed files were read in full: " + b.base.readsBlocks
	}
	return text + "\n"
}
