package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// bench stands in for a test towards pgtest, and carries what the sections
// share. The embedded interface is nil: what pgtest calls is below.
type bench struct {
	testing.TB
	o       options
	exe     string // the binary to measure, a copy that nobody rebuilds meanwhile
	scratch string // removed at the end; beside the kept clusters, on the same disk

	mu       sync.Mutex
	cleanups []func()
}

// failed is the value of the panic that ends a run: pgtest reports to a
// testing.TB, whose Fatal does not return.
const failed = "bench failed"

func (b *bench) Helper()                           {}
func (b *bench) Context() context.Context          { return context.Background() }
func (b *bench) Failed() bool                      { return false }
func (b *bench) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (b *bench) Errorf(format string, args ...any) { b.Logf(format, args...) }
func (b *bench) Fatal(args ...any)                 { b.Fatalf("%s", fmt.Sprint(args...)) }
func (b *bench) Fatalf(format string, args ...any) {
	b.Logf("bench: "+format, args...)
	panic(failed)
}

// must ends the run where err is one.
func (b *bench) must(err error) {
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) Cleanup(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cleanups = append(b.cleanups, fn)
}

func (b *bench) cleanup() {
	b.mu.Lock()
	todo := b.cleanups
	b.cleanups = nil
	b.mu.Unlock()
	for _, fn := range slices.Backward(todo) {
		fn()
	}
}

// note tells on stderr how far it is.
func (b *bench) note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// prepare makes the scratch directory and copies the binary into it.
func (b *bench) prepare() {
	dir, err := os.MkdirTemp(b.cacheDir(), "bench-scratch-")
	b.must(err)
	b.scratch = dir
	b.Cleanup(func() { os.RemoveAll(dir) })
	b.must(os.Chmod(dir, 0o755))
	data, err := os.ReadFile(b.o.pgtrove)
	b.must(err)
	b.exe = filepath.Join(dir, "pgtrove")
	b.must(os.WriteFile(b.exe, data, 0o755))
	pgtest.Own(b, dir)
}

// mkdir makes a directory below scratch for the user that runs the servers.
func (b *bench) mkdir(elements ...string) string {
	dir := filepath.Join(append([]string{b.scratch}, elements...)...)
	b.must(os.MkdirAll(dir, 0o755))
	pgtest.Own(b, dir)
	return dir
}

// TempDir is part of what pgtest and s3test call.
func (b *bench) TempDir() string {
	dir, err := os.MkdirTemp(b.scratch, "temp-")
	b.must(err)
	return dir
}

// discard removes what a section does not need any more: all of them together
// would fill a small disk.
func (b *bench) discard(dirs ...string) {
	for _, dir := range dirs {
		b.must(os.RemoveAll(dir))
	}
}
