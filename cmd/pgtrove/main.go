// Command pgtrove keeps backups of PostgreSQL clusters in a deduplicating, encrypted repository.
//
// This package is flags, environment, configuration file, rendering, exit codes, signals and logging, and the wiring
// between the PostgreSQL column (pgsource, walsource, snapshot, restore) and the store column (repo and below). It
// never decides what a backup is. People, cron and PostgreSQL itself (archive_command, restore_command) use it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/pgtrove/pgtrove/walreceiver"
)

func main() {
	a := newApp()
	os.Exit(a.main(os.Args[1:]))
}

// main runs one command line and returns the exit code.
func (a *app) main(args []string) (code int) {
	root := newRootCommand(a)
	root.SetArgs(args)
	policy := exitPolicyOf(root, args)
	policy.prepare()
	defer func() {
		if p := recover(); p != nil {
			err := withHint(fmt.Errorf("internal error: %v", p), "this is a bug; please report it with the output of the same command and -v")
			a.started = true // it is no mistake of the command line
			code = a.report(err, policy)
			if a.settings.Verbose {
				_, _ = a.stderr.Write(debug.Stack())
			}
		}
	}()
	ctx, stop := interruptible(func() {
		_, _ = fmt.Fprintf(os.Stderr, "pgtrove: %v\n", errInterrupted)
		os.Exit(policy.code(errInterrupted))
	})
	defer stop()
	err := root.ExecuteContext(ctx)
	if err != nil && context.Cause(ctx) == errInterrupted && !errors.Is(err, walreceiver.ErrUnstored) {
		err = interruptedError{err}
	}
	return a.report(err, policy)
}

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP cancels with errInterrupted, so that a
// backup ends on the server and what was begun is taken back. The second one calls now, and so does SIGQUIT, by which
// PostgreSQL ends its commands when it is shut down at once: Go's own answer to it is a page of stacks and exit code 2.
func interruptible(now func()) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case s := <-signals:
				if ctx.Err() != nil || s == syscall.SIGQUIT {
					now()
				}
				cancel(errInterrupted)
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancel(nil)
	}
}
