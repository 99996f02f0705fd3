package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walahead"
	"github.com/pgtrove/pgtrove/walarchive"
)

// defaultFetchAhead is how much a host keeps ready for recovery.
const defaultFetchAhead = "128MiB"

// fetchJobs is how many segments are fetched at once: on a network that is far away, waiting is most of it.
func fetchJobs() int { return min(8, max(4, runtime.NumCPU())) }

// newWALPrefetchCommand makes the command that wal fetch starts behind itself. PostgreSQL does not wait for it and sees nothing of it. It never
// ends with another code than 0 or 1 (exitPolicy): where the server is process 1 of a container it becomes its child, and the server takes other
// codes for the crash of one of its own.
func newWALPrefetchCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:    "prefetch PATH",
		Short:  "Fetch the WAL segments that recovery will ask for next; wal fetch runs it",
		Hidden: true,
		Args:   exactly("PATH"),
	}
	ahead := c.Flags().String("ahead", defaultFetchAhead, "fetch up to `size` of WAL")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		bytes, err := parseSize(*ahead)
		if err == nil {
			a.settings.Storage.RetryTime = 0 // what fails is asked for by its own call
			err = a.prefetch(ctx, args[0], bytes)
		}
		if ctx.Err() != nil || errors.Is(err, walarchive.ErrNotExist) {
			return nil
		}
		return err
	})
	return c
}

// walFetcher is one call of wal fetch.
type walFetcher struct {
	*app
	ahead   int64          // bytes; 0: nothing is fetched ahead
	flags   *pflag.FlagSet // that the call got, for the process behind it
	name    string
	path    string
	control *pg.Control
	pgdata  string
}

// spool is that of the data directory, nil where the call does without.
func (f *walFetcher) spool(archive openedArchive) *walahead.Spool {
	cache := f.cacheDir()
	if f.ahead == 0 || cache == "" {
		return nil
	}
	s, err := walahead.OpenSpool(cache, walahead.SpoolOptions{
		Owner: archive.owner, Key: archive.key, PGData: f.pgdata, SegmentSize: f.control.WALSegmentSize, Bytes: f.ahead,
	})
	if err != nil {
		f.out.detail("nothing is fetched ahead: %v", err)
		return nil
	}
	return s
}

// fromSpool brings the segment to its path if it was fetched before its turn. One that is just being fetched is waited for, unless
// who does that stands still. Where it is not served, release ends the claim to fetch it.
func (f *walFetcher) fromSpool(ctx context.Context, s *walahead.Spool) (served bool, release func(), err error) {
	for range 2 {
		if served, err = s.Take(f.name, f.path); served {
			return served, func() {}, err
		}
		if release, ok := s.Claim(f.name); ok {
			return false, release, nil
		}
		err := s.Wait(ctx, f.name)
		if errors.Is(err, walahead.ErrStandsStill) {
			f.out.detail("%v", err)
			break
		}
		if err != nil {
			return false, nil, err
		}
	}
	return false, func() {}, nil
}

// fillBehind notes what recovery has got, and starts the process that fetches what comes next unless there is one or enough is there. Nothing
// that fails here is a failure of the call.
func (f *walFetcher) fillBehind(s *walahead.Spool) {
	seg, err := pg.ParseSegment(f.name, f.control.WALSegmentSize)
	if err == nil {
		err = s.Ask(seg)
	}
	if err == nil && !s.Led() && s.Low() {
		err = f.start()
	}
	if err != nil {
		f.out.detail("nothing is fetched ahead: %v", err)
	}
}

// start starts wal prefetch with the call's own settings, in a session of its own: a signal to the server's processes does not reach it, and
// it holds none of their files, the log's pipe for one.
func (f *walFetcher) start() error {
	args := []string{"wal", "prefetch"}
	f.flags.VisitAll(func(flag *pflag.Flag) { args = append(args, "--"+flag.Name+"="+flag.Value.String()) })
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append(args, "--", f.path)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// prefetch fills the spool of the data directory that path belongs to, until it is full or the archive ends.
func (a *app) prefetch(ctx context.Context, path string, ahead int64) error {
	f := &walFetcher{app: a, ahead: ahead, path: path}
	var err error
	if f.control, f.pgdata, err = a.controlOf(path); err != nil {
		return err
	}
	return a.withArchive(ctx, "prefetch", f.control.SystemID, func(archive openedArchive) error {
		s := f.spool(archive)
		if s == nil {
			return nil
		}
		release, ok := s.Lead()
		if !ok {
			return nil
		}
		defer release()
		walahead.Tidy(a.cacheDir(), time.Now())
		return f.fill(ctx, archive, s)
	})
}

// fullFor is how long the process waits, when all that is wanted is there, for recovery to ask for more: to start another one costs more than to wait.
const fullFor = 200 * time.Millisecond

// more waits until more is wanted than is there. It returns false when that takes too long.
func more(ctx context.Context, s *walahead.Spool) bool {
	last, asked := s.Wanted(), time.Now()
	for len(last) > 0 && ctx.Err() == nil && time.Since(asked) < fullFor {
		if now := s.Wanted(); len(now) == 0 || now[0] != last[0] {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// fetched is what came of one segment.
type fetched struct {
	name string
	err  error
}

// fill fetches what is wanted, one segment first, and more at once as it goes well: at the end of the archive, where a standby spends its life,
// it asks for one segment in vain. Nothing of that is remembered: it may be there a moment later.
func (f *walFetcher) fill(ctx context.Context, archive openedArchive, s *walahead.Spool) error {
	most, atOnce := f.jobs(fetchJobs()), 1
	done := make(chan fetched)
	busy := map[string]bool{}
	var failed error
	for {
		if failed == nil && ctx.Err() == nil {
			for _, seg := range s.Wanted() {
				name := seg.Name(f.control.WALSegmentSize)
				if len(busy) >= atOnce {
					break
				}
				if busy[name] || s.Has(name) {
					continue
				}
				release, ok := s.Claim(name)
				if !ok {
					continue // recovery is there already
				}
				busy[name] = true
				go func() {
					_, content, err := archive.Fetch(ctx, name)
					if err == nil {
						err = s.Put(name, content)
						archive.recycle(content)
					}
					release()
					done <- fetched{name, err}
				}()
			}
		}
		if len(busy) == 0 {
			if failed != nil || !more(ctx, s) {
				return failed
			}
			continue
		}
		r := <-done
		delete(busy, r.name)
		if r.err == nil {
			atOnce = min(2*atOnce, most)
		} else if failed == nil {
			failed = r.err
		}
	}
}
