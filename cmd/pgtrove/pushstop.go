package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/storage"
)

// A server that is being shut down waits for its archiver: for the call that is under way, tried three times, and for another round of three after
// the last checkpoint (pgarch.c). pg_ctl waits for a minute. Storage that does not answer at all would hold each of these calls for minutes.
const (
	// stopPatience is how long a call goes on after it has seen that the server is being shut down.
	stopPatience = 20 * time.Second
	// stopRemembered is for how long after one was given up the others of the same shutdown are not begun.
	stopRemembered = 20 * time.Second
	stopLook       = 250 * time.Millisecond
)

// errServerStops says that a push was given up since the server is being shut down.
var errServerStops = errors.New("the server is being shut down")

// stopping says whether the server of the data directory is being shut down, by what its postmaster notes in postmaster.pid, and names this run of the
// server. (The eighth line is the status: LOCK_FILE_LINE_PM_STATUS in pidfile.h.)
func stopping(pgdata string) (run string, yes bool) {
	text, err := os.ReadFile(filepath.Join(pgdata, "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	if err != nil || len(lines) < 8 || strings.TrimSpace(lines[7]) != "stopping" {
		return "", false
	}
	sum := sha256.Sum256([]byte(strings.Join(lines[:3], "\n"))) // process, directory, time of the start
	return hex.EncodeToString(sum[:8]), true
}

func (p *walPusher) stopNote(run string) string { return filepath.Join(p.cacheDir(), "stopping-"+run) }

// gaveUpStopping says whether an earlier call found a moment ago that the server is being shut down and that the storage does not answer.
func (p *walPusher) gaveUpStopping() bool {
	run, yes := stopping(p.pgdata)
	if !yes || p.cacheDir() == "" {
		return false
	}
	info, err := os.Stat(p.stopNote(run))
	if err != nil {
		return false
	}
	age := time.Since(info.ModTime())
	return age >= 0 && age < stopRemembered
}

// untilStopped returns a context that ends some time after the server began to shut down. The function must be called.
func (p *walPusher) untilStopped(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var since time.Time
		for {
			if _, yes := stopping(p.pgdata); !yes {
				since = time.Time{}
			} else if since.IsZero() {
				since = time.Now()
			} else if time.Since(since) >= stopPatience {
				cancel(errServerStops)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(stopLook):
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

// leave is what becomes of a push that failed while the server was being shut down: it stays for the next start, and the other calls of this shutdown
// are told.
func (p *walPusher) leave(ctx context.Context, err error) error {
	cut := context.Cause(ctx) == errServerStops
	if err == nil || !cut && !errors.Is(err, storage.ErrUnreachable) {
		return err
	}
	if run, yes := stopping(p.pgdata); yes && p.cacheDir() != "" {
		old, _ := filepath.Glob(p.stopNote("*"))
		for _, path := range old {
			_ = os.Remove(path)
		}
		// Without it the shutdown takes longer.
		_ = os.WriteFile(p.stopNote(run), nil, 0o600)
	}
	if !cut {
		return err
	}
	return p.stopped(fmt.Sprintf("and the storage has not taken it in %s", showDuration(stopPatience)))
}

// stopped is the error of a push that is not gone on with.
func (p *walPusher) stopped(why string) error {
	err := classified{fmt.Errorf("archive %s: %w, %s", p.name, errServerStops, why), storage.ErrUnreachable}
	return withHint(err, "the server keeps the file and archives it when it runs again")
}
