package main

import (
	"context"
	"errors"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/walarchive"
)

// walObjects lets walarchive, which knows no repository, keep its files in one.
type walObjects struct{ repo *repo.Repo }

// PutArchive implements walarchive.Objects.
func (w walObjects) PutArchive(ctx context.Context, key string, header, content []byte) (bool, error) {
	stored, err := w.repo.PutArchive(ctx, key, header, content)
	return stored == repo.StoredSame, asArchive(err)
}

// ArchiveHeader implements walarchive.Objects.
func (w walObjects) ArchiveHeader(ctx context.Context, key string) ([]byte, int64, error) {
	header, size, err := w.repo.ArchiveHeader(ctx, key)
	return header, size, asArchive(err)
}

// GetArchive implements walarchive.Objects.
func (w walObjects) GetArchive(ctx context.Context, key string) (header, content []byte, err error) {
	header, content, err = w.repo.GetArchive(ctx, key)
	return header, content, asArchive(err)
}

// List implements walarchive.Objects.
func (w walObjects) List(ctx context.Context, prefix string, fn func(key string, size int64) error) error {
	return w.repo.List(ctx, prefix, fn)
}

// asArchive adds walarchive's class to an error of the repository.
func asArchive(err error) error {
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return classified{err, walarchive.ErrNotExist}
	case errors.Is(err, repo.ErrConflict):
		return classified{err, walarchive.ErrConflict}
	case errors.Is(err, repo.ErrDamaged):
		return classified{err, walarchive.ErrDamaged}
	}
	return err
}
