package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
)

// repositoryPath returns the absolute path of the repository that the settings name.
func (a *app) repositoryPath() (string, error) {
	r := a.settings.Repo
	if r == "" {
		return "", usageError{err: errors.New("no repository given"), hint: "give --repo DIR, or set PGTROVE_REPO"}
	}
	if strings.Contains(r, "://") {
		return "", usageError{err: fmt.Errorf("repository %q: this version keeps repositories in directories", r)}
	}
	return absolute(r)
}

func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find the absolute path of %s: %w", path, err)
	}
	return abs, nil
}

// openRepository opens the repository that the settings name.
func (a *app) openRepository(ctx context.Context) (*repo.Repo, error) {
	path, err := a.repositoryPath()
	if err != nil {
		return nil, err
	}
	store, err := openStore(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", path, err)
	}
	ids, err := a.identities(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", path, err)
	}
	r, err := repo.Open(ctx, store, ids...)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", path, err)
	}
	return r, nil
}

// openStore opens the storage and makes sure that it holds a repository, before anybody is asked for a key.
func openStore(ctx context.Context, path string) (storage.Store, error) {
	store, err := storagefs.Open(path)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, repo.ErrNoRepository
	}
	if err != nil {
		return nil, err
	}
	if _, err := repo.ReadConfig(ctx, store); err != nil {
		return nil, err
	}
	return store, nil
}

// cacheDir returns the directory for caches; "" where there is no place for one, and the work then does without.
func (a *app) cacheDir() string {
	if a.settings.CacheDir != "" {
		return a.settings.CacheDir
	}
	d, err := a.env.cacheDir()
	if err != nil {
		a.out.detail("no cache directory: %v", err)
		return ""
	}
	return d
}
