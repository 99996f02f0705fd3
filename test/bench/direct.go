package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/pack"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/snapshot"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
)

// direct is a repository that is written through the packages, without the
// command.
type direct struct {
	dir  string // repository, identity and cache are in it
	jobs int
	repo *repo.Repo
}

const directCluster = "bench"

// createDirect makes a repository in dir, which must be there and empty.
func createDirect(ctx context.Context, dir string, jobs int) (*direct, error) {
	text, recipient, err := keys.GenerateIdentity()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "identity"), text, 0o600); err != nil {
		return nil, err
	}
	store, err := storagefs.Create(filepath.Join(dir, "repository"))
	if err != nil {
		return nil, err
	}
	r, err := repo.Init(ctx, store, recipient, time.Now())
	return &direct{dir, jobs, r}, err
}

func openDirect(ctx context.Context, dir string, jobs int) (*direct, error) {
	r, err := openRepository(ctx, filepath.Join(dir, "repository"), filepath.Join(dir, "identity"))
	return &direct{dir, jobs, r}, err
}

func openRepository(ctx context.Context, dir, identity string) (*repo.Repo, error) {
	text, err := os.ReadFile(identity)
	if err != nil {
		return nil, err
	}
	ids, err := keys.ParseIdentityFile(text)
	if err != nil {
		return nil, err
	}
	store, err := storagefs.Open(dir)
	if err != nil {
		return nil, err
	}
	return repo.Open(ctx, store, ids.Identities...)
}

// take stores sources on the newest snapshot as the parent, if there is one,
// and believes the files' times.
func (d *direct) take(ctx context.Context, sources []snapshot.Source) (*snapshot.Result, error) {
	parent, err := d.newest(ctx)
	if err != nil {
		return nil, err
	}
	var result *snapshot.Result
	o := repo.SessionOptions{Cluster: directCluster, CacheDir: d.cache(), Now: time.Now}
	err = d.repo.Write(ctx, o, func(ctx context.Context, s *repo.Session) (err error) {
		var lost atomic.Pointer[string]
		t := snapshot.Options{
			Jobs: d.jobs, Key: d.repo.IDKey(), NewWriter: func() (snapshot.Writer, error) { return s.NewWriter() }, Notes: s,
			Lost: func(path string, err error) {
				text := fmt.Sprintf("%s: %v", path, err)
				lost.Store(&text)
			},
		}
		if parent != nil {
			if t.Parent, err = snapshot.LoadParent(ctx, parent, s); err != nil {
				return err
			}
			t.Parent.Trusted = true
		}
		start := time.Now().UTC()
		if result, err = snapshot.Take(ctx, sources, t); err != nil {
			return err
		}
		if text := lost.Load(); text != nil {
			return fmt.Errorf("the parent could not be used: %s", *text)
		}
		text, err := manifest(s.ID(), start, result).Marshal()
		if err != nil {
			return err
		}
		return s.Commit(ctx, text)
	})
	return result, err
}

// newest looks for the parent as a backup does.
func (d *direct) newest(ctx context.Context) (m *snapshot.Manifest, err error) {
	err = d.repo.NewestCommits(ctx, directCluster, func(c repo.Commit) (enough bool, err error) {
		if c.Err != nil {
			return true, c.Err
		}
		m, err = snapshot.ParseManifest(c.Manifest)
		return true, err
	})
	return m, err
}

func (d *direct) repository() string { return filepath.Join(d.dir, "repository") }

func (d *direct) cache() string { return filepath.Join(d.dir, "cache") }

// manifest says what the format wants said, and of the server nothing true.
func manifest(id string, start time.Time, r *snapshot.Result) *snapshot.Manifest {
	return &snapshot.Manifest{
		Version: snapshot.Version, ID: id, Cluster: directCluster,
		Server:      snapshot.Server{Version: 170000, BlockSize: pageSize, WALSegmentSize: 16 << 20, Checksums: true},
		Window:      snapshot.Window{Timeline: 1, StopTimeline: 1, StartTime: start, StopTime: time.Now().UTC()},
		Totals:      snapshot.Totals{Size: r.Size, Read: r.Read, Files: r.Files},
		WAL:         snapshot.WALUnproven,
		BackupLabel: []byte("bench\n"), Root: r.Root,
	}
}

// footprint is what a repository takes, in bytes.
type footprint struct {
	Data  int64 // packs of data, with their directories and page digests
	Meta  int64 // packs of recipes and listings
	Index int64
	Other int64 // sessions and their outcomes, among them manifests; keys; config
}

// all but the data.
func (f footprint) metadata() int64 { return f.Meta + f.Index + f.Other }

func (f footprint) minus(g footprint) footprint {
	return footprint{f.Data - g.Data, f.Meta - g.Meta, f.Index - g.Index, f.Other - g.Other}
}

// weigh asks every pack what it is. kinds keeps the answers for the next time.
func weigh(ctx context.Context, r *repo.Repo, kinds map[string]pack.Kind) (f footprint, err error) {
	packs := map[string]int64{}
	err = r.List(ctx, "", func(key string, size int64) error {
		switch {
		case strings.HasPrefix(key, "packs/"):
			packs[key] = size
		case strings.HasPrefix(key, "index/"):
			f.Index += size
		default:
			f.Other += size
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	for key, size := range packs {
		if _, known := kinds[key]; !known {
			directory, err := r.PackDirectory(ctx, key)
			if err != nil {
				return f, err
			}
			kinds[key] = directory.Kind
		}
		if kinds[key] == pack.Meta {
			f.Meta += size
		} else {
			f.Data += size
		}
	}
	return f, nil
}
