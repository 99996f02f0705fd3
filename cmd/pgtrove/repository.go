package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/keys"
	"github.com/pgtrove/pgtrove/repo"
	"github.com/pgtrove/pgtrove/storage"
	storagefs "github.com/pgtrove/pgtrove/storage/fs"
	"github.com/pgtrove/pgtrove/storage/limit"
	"github.com/pgtrove/pgtrove/storage/meter"
	"github.com/pgtrove/pgtrove/storage/retry"
	"github.com/pgtrove/pgtrove/storage/s3"
)

// repositoryName returns where the repository is that the settings name: the absolute path of a directory, or s3://bucket/prefix.
func (a *app) repositoryName() (string, error) {
	r := a.settings.Repo
	if r == "" {
		return "", usageError{err: errors.New("no repository given"), hint: "give --repo DIR or --repo s3://BUCKET/PREFIX, or set PGTROVE_REPO"}
	}
	if !isRemote(r) {
		return absolute(r)
	}
	l, err := s3.ParseLocation(r)
	if err != nil {
		return "", usageError{err: err}
	}
	return l.String(), nil
}

// isRemote says whether a repository is in object storage. Of other addresses loadSettings has made sure that there are none.
func isRemote(name string) bool { return strings.HasPrefix(name, s3.Scheme) }

func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find the absolute path of %s: %w", path, err)
	}
	return abs, nil
}

// openRepository opens the repository that the settings name.
func (a *app) openRepository(ctx context.Context) (*repo.Repo, error) {
	name, err := a.repositoryName()
	if err != nil {
		return nil, err
	}
	store, _, err := a.openStorage(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", name, err)
	}
	return a.openIn(ctx, name, store)
}

// openIn opens the repository in store. That there is one is made sure before anybody is asked for a key.
func (a *app) openIn(ctx context.Context, name string, store storage.Store) (*repo.Repo, error) {
	if _, err := repo.ReadConfig(ctx, store); err != nil {
		return nil, fmt.Errorf("open repository %s: %w", name, err)
	}
	given, err := a.identities(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", name, err)
	}
	r, err := repo.OpenWith(ctx, store, given)
	if errors.Is(err, keys.ErrOrigin) {
		err = withHint(err, "what is there is not what the identity was made for: somebody may have put another repository, or keys of his own, into its place. "+
			"If it was replaced on purpose, open it with an identity of its own")
	}
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", name, err)
	}
	a.obey(r.Config())
	return r, nil
}

// openStorage makes ready to use the storage of the repository name, which need not be there. place tells it from every other one, and is
// empty for a directory. Errors: repo.ErrNoRepository for a directory that is not there; what s3.Open says.
func (a *app) openStorage(ctx context.Context, name string) (store storage.Store, place string, err error) {
	if !isRemote(name) {
		driver, err := storagefs.Open(name)
		if errors.Is(err, storage.ErrNotExist) {
			return nil, "", repo.ErrNoRepository
		}
		if err != nil {
			return nil, "", err
		}
		return a.decorate(driver), "", nil
	}
	driver, err := a.openS3(name)
	if err != nil {
		return nil, "", err
	}
	return a.decorateRemote(driver), driver.Place(), nil
}

func (a *app) openS3(name string) (*s3.Store, error) {
	o := a.settings.Storage.S3
	o.Wrap = func(t http.RoundTripper) http.RoundTripper {
		return limit.Transport(t, limit.Options{Upload: a.settings.Storage.LimitUpload, Download: a.settings.Storage.LimitDownload})
	}
	// A server that Debian starts has no HOME, and runs archive_command without.
	if home, err := a.env.home(); err == nil {
		o.Home = home
	}
	var err error
	if o.Location, err = s3.ParseLocation(name); err != nil {
		return nil, err
	}
	a.remote, err = s3.Open(o)
	return a.remote, err
}

// obey does what the repository's config says of its storage.
func (a *app) obey(c repo.Config) {
	if a.remote != nil {
		a.remote.Retain(time.Duration(c.Params.ObjectLockDays) * 24 * time.Hour)
	}
}

// maxCalls is how many requests are under way at once at most. It is above what the workers of a command come to on most machines, and
// bounds connections, and what waits in memory, where there are many more.
const maxCalls = 32

// decorate puts the counters next to a driver, and the limits, if there are any, above them.
func (a *app) decorate(driver storage.Store) storage.Store {
	a.meter = meter.New(driver)
	s := &a.settings.Storage
	if s.LimitUpload == 0 && s.LimitDownload == 0 {
		return a.meter
	}
	return limit.New(a.meter, limit.Options{Upload: s.LimitUpload, Download: s.LimitDownload})
}

// decorateRemote does the same for a driver that speaks over a network, where openS3 has seen to the bytes, and tries again what fails there. A directory
// is not tried again: if it is on a network, the kernel has done so.
func (a *app) decorateRemote(driver storage.Store) storage.Store {
	a.meter = meter.New(driver)
	limited := limit.New(a.meter, limit.Options{Calls: maxCalls})
	total := a.settings.Storage.RetryTime
	if total == 0 {
		total = -1 // which is retry's way to say never
	}
	return retry.New(limited, retry.Options{
		Total: total, Once: repo.OncePut, Lasting: s3.IsLasting, Throttled: s3.IsThrottled, Retrying: a.showRetry,
	})
}

// onRetry sets who is told of requests that are about to be tried again; nil is nobody.
func (a *app) onRetry(told func()) {
	if told == nil {
		a.retrying.Store(nil)
		return
	}
	a.retrying.Store(&told)
}

// showRetry tells a person why nothing happens. What passes in a second or two only -v shows.
func (a *app) showRetry(f retry.Failure) {
	if told := a.retrying.Load(); told != nil {
		(*told)()
	}
	if f.Attempt != 4 {
		a.out.detail("%v; trying again in %s", f.Err, showDuration(f.Pause))
		return
	}
	a.out.warn("%v; trying again, for %s in all", f.Err, showDuration(a.settings.Storage.RetryTime))
}

// showTraffic says what the command asked of the storage.
func (a *app) showTraffic() {
	if a.meter == nil || !a.out.verbose {
		return
	}
	c := a.meter.Counts()
	a.out.detail("storage: %s (longest %s), %s up, %s down", showCount(c.Requests(), "request", "requests"), showWait(c.Longest()),
		showBytes(c.Put.Bytes), showBytes(c.Get.Bytes))
}

// showWait writes for how long something made people wait: in milliseconds, for most of it takes some.
func showWait(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return showDuration(d)
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
