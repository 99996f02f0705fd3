package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walarchive"
)

func newWALFetchCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "fetch NAME PATH",
		Short: "Fetch a WAL file: restore_command = 'pgtrove wal fetch %f %p'",
		Long: `Fetch the WAL file NAME from the repository to PATH, in full or not at all. PostgreSQL runs it:

  restore_command = 'pgtrove wal fetch %f %p'

PostgreSQL reads exit codes up to 125 as "the archive ends here" and promotes. So the code is 4 only if the repository
was read and does not hold the file; every other failure is 126, and recovery stops with an error. On a standby
(standby.signal in the working directory) 126 would shut the server down; there the code is 7 and PostgreSQL asks again.

The cluster is recognised by global/pg_control in the working directory, where PostgreSQL runs the command.`,
		Args:        exactly("NAME", "PATH"),
		Annotations: map[string]string{fetchAnnotation: "yes"},
	}
	c.Flags().Bool("strict", false, "exit with 126 on a standby too") // read by exitPolicyOf
	c.RunE = a.run(func(ctx context.Context, args []string) error { return a.walFetch(ctx, args[0], args[1]) })
	return c
}

func (a *app) walFetch(ctx context.Context, name, path string) error {
	system, err := a.systemOf(path)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", name, err)
	}
	var content []byte
	err = a.withArchive(ctx, "fetch "+name, system, func(archive openedArchive) (err error) {
		_, content, err = archive.Fetch(ctx, name)
		return err
	})
	if errors.Is(err, walarchive.ErrNotExist) {
		return classified{fmt.Errorf("fetch %s: not in the archive of cluster %s, system %s", name, a.settings.clusterName(), system), errAbsentFile}
	}
	if err != nil {
		return err
	}
	if err := durable.Replace(path, 0o600, content); err != nil {
		return fmt.Errorf("fetch %s: write %s: %w", name, path, err)
	}
	a.out.detail("fetched %s, %s, to %s", name, showBytes(int64(len(content))), path)
	return nil
}

// openedArchive is the archive of one cluster in an opened repository.
type openedArchive struct {
	walarchive.Archive
	owner walahead.Owner
	key   chunk.Key // of the repository, for names and digests
}

// withArchive opens the repository for one WAL file, as PostgreSQL asks for it: nobody is there to be asked for
// anything, and it has to take milliseconds. do may run twice: see withOpened. what begins the message where it does not come to do.
func (a *app) withArchive(ctx context.Context, what string, system pg.SystemID, do func(openedArchive) error) error {
	a.unattended = true
	name, err := a.repositoryName()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	store, place, err := a.openStorage(ctx, name)
	if err != nil {
		return fmt.Errorf("%s: open repository %s: %w", what, name, err)
	}
	cache := openedCache{now: time.Now}
	if dir := a.cacheDir(); place != "" && dir != "" {
		cache.dir = filepath.Join(dir, "opened")
	}
	var did error
	err = a.withOpened(ctx, cache, name, place, store, func(r *repo.Repo) error {
		o := openedArchive{Archive: walarchive.Archive{Objects: walObjects{r}, Cluster: a.settings.clusterName(), System: system}, key: r.IDKey()}
		o.owner = walahead.Owner{Place: place, Repository: r.Config().ID, Cluster: o.Cluster, System: system}
		if place == "" { // a directory
			o.owner.Place = name
		}
		did = do(o)
		return did
	})
	if err != nil && (did == nil || !errors.Is(err, did)) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return err
}

var errNoDataDirectory = errors.New("no data directory with global/pg_control")

// systemOf says which cluster a WAL file at path belongs to, by the control file.
func (a *app) systemOf(path string) (pg.SystemID, error) {
	c, _, err := a.controlOf(path)
	if err != nil {
		return 0, err
	}
	return c.SystemID, nil
}

// controlOf reads the control file of the cluster that path belongs to, and says in which data directory. PostgreSQL runs its commands in the
// data directory; pg_rewind and people run them elsewhere, but then path is <data directory>/pg_wal/<file>.
func (a *app) controlOf(path string) (c *pg.Control, pgdata string, err error) {
	places := []string{".", a.settings.PGData, filepath.Dir(filepath.Dir(path))}
	if a.settings.PGDataByFlag {
		places = []string{a.settings.PGData}
	}
	for _, dir := range places {
		if dir == "" {
			continue
		}
		c, err := pg.ReadControl(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("read the control file in %s: %w", dir, err)
		}
		return c, dir, nil
	}
	return nil, "", errNoDataDirectory
}
