package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgtrove/pgtrove/chunk"
	"github.com/pgtrove/pgtrove/internal/durable"
	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/keys"
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
was read and does not hold the file; every other failure is 126, and recovery stops with an error. Of a segment that is there
only in part, since ` + "`pgtrove wal receive`" + ` had it from a server that has not finished it, PATH has what there is and zeros. On a standby
(standby.signal in the working directory) 126 would shut the server down; there the code is 7 and PostgreSQL asks again.

It takes the key of a standby or an owner: a writer's opens no WAL, which is such a failure.

What recovery will ask for next is fetched meanwhile, by a process of its own that ends when --ahead is reached or the archive
ends. It keeps segments in the cache directory, apart for each data directory; a later call verifies what it finds there.

The cluster is recognised by global/pg_control in the working directory, where PostgreSQL runs the command. On a standby,
where PostgreSQL asks again, storage that does not answer is tried for 10s only, unless --retry-time says otherwise.`,
		Args:        exactly("NAME", "PATH"),
		Annotations: map[string]string{fetchAnnotation: "yes"},
	}
	c.Flags().Bool("strict", false, "exit with 126 on a standby too") // read by exitPolicyOf
	ahead := c.Flags().String("ahead", defaultFetchAhead, "keep up to `size` of the following WAL ready, at least three segments; 0: none")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		bytes, err := parseSize(*ahead)
		if err != nil {
			return usageError{err: fmt.Errorf("ahead %w", err), command: "pgtrove wal fetch"}
		}
		if onStandby() {
			a.settings.Storage.retryByDefault(serverRetryTime)
		}
		f := &walFetcher{app: a, ahead: bytes, flags: pflag.NewFlagSet("", pflag.ContinueOnError), name: args[0], path: args[1]}
		c.InheritedFlags().Visit(f.flags.AddFlag)
		f.flags.AddFlag(c.Flags().Lookup("ahead"))
		return f.fetch(ctx)
	})
	return c
}

func (f *walFetcher) fetch(ctx context.Context) (err error) {
	if f.control, f.pgdata, err = f.controlOf(f.path); err != nil {
		return fmt.Errorf("fetch %s: %w", f.name, err)
	}
	system := f.control.SystemID
	err = f.withArchive(ctx, "fetch "+f.name, system, func(archive openedArchive) error { return f.bring(ctx, archive) })
	if errors.Is(err, walarchive.ErrNotExist) {
		return classified{fmt.Errorf("fetch %s: not in the archive of cluster %s, system %s", f.name, f.settings.clusterName(), system), errAbsentFile}
	}
	return err
}

// bring brings the file to its path, and sees to it that the next ones are near.
func (f *walFetcher) bring(ctx context.Context, archive openedArchive) error {
	var s *walahead.Spool
	kind, err := pg.ClassifyWALFile(f.name)
	segment := err == nil && kind == pg.KindSegment
	if segment {
		s = f.spool(archive)
	}
	served, partly := false, false
	if s != nil {
		var release func()
		var err error
		if served, release, err = f.fromSpool(ctx, s); err != nil {
			return fmt.Errorf("fetch %s: write %s: %w", f.name, f.path, err)
		}
		defer release()
	}
	if !served {
		h, content, err := archive.Fetch(ctx, f.name)
		if errors.Is(err, walarchive.ErrNotExist) && segment {
			h, content, err = f.fetchUnfinished(ctx, archive)
		}
		if errors.Is(err, keys.ErrRole) {
			return f.lacksRole(archive.repo, "fetch "+f.name, "opens no WAL", "restore_command needs the key of a standby, which opens WAL only, or of an owner (--key-file FILE). "+
				"Where an owner's identity is, `pgtrove key add --role standby --name NAME` makes one for this host")
		}
		if err != nil {
			return err
		}
		if err := durable.Replace(f.path, 0o600, content); err != nil {
			return fmt.Errorf("fetch %s: write %s: %w", f.name, f.path, err)
		}
		if partly = h.Kind == walarchive.PartKind; partly {
			f.out.detail("fetched %s, as far as it was received, to %s: records up to %s, and zeros", f.name, f.path, h.End)
		} else {
			f.out.detail("fetched %s, %s, to %s", f.name, showBytes(int64(len(content))), f.path)
		}
	} else {
		f.out.detail("fetched %s, which was here before its turn, to %s", f.name, f.path)
	}
	if s != nil && !partly { // what comes behind a part is not there yet
		f.fillBehind(s)
	}
	return nil
}

// openedArchive is the archive of one cluster in an opened repository.
type openedArchive struct {
	walarchive.Archive
	repo      *repo.Repo
	owner     walahead.Owner
	receivers receiversCache
	key       chunk.Key // of the repository, for names and digests
	// recycle takes back the content of a fetched file, whose memory the next one may use.
	recycle func([]byte)
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
	cache, receivers := openedCache{now: time.Now}, receiversCache{now: time.Now}
	if dir := a.cacheDir(); place != "" && dir != "" {
		cache.dir, receivers.dir = filepath.Join(dir, "opened"), filepath.Join(dir, "receivers")
	}
	var did error
	err = a.withOpened(ctx, cache, name, place, store, func(r *repo.Repo) error {
		archive := walarchive.Archive{Objects: walObjects{r}, Cluster: a.settings.clusterName(), System: system}
		o := openedArchive{Archive: archive, repo: r, receivers: receivers, key: r.IDKey(), recycle: r.Recycle}
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
