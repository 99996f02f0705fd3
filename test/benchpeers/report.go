package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bench stands in for a test towards pgtest. The embedded interface is nil:
// what pgtest calls is below.
type bench struct {
	testing.TB
	mu       sync.Mutex
	cleanups []func()
}

// failed is the value of the panic that ends a run.
const failed = "benchpeers failed"

func (b *bench) Helper()                           {}
func (b *bench) Failed() bool                      { return false }
func (b *bench) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (b *bench) Errorf(format string, args ...any) { b.Logf(format, args...) }
func (b *bench) Fatal(args ...any)                 { b.Fatalf("%s", fmt.Sprint(args...)) }
func (b *bench) Fatalf(format string, args ...any) {
	b.Logf("benchpeers: "+format, args...)
	panic(failed)
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

const row = "%-8s %9s %9s %9s %9s   %9s %9s %9s %9s   %7s\n"

func printHeader() {
	fmt.Printf("%-8s %-39s   %-39s   %7s\n", "", "pgtrove", "pgBackRest", "wall")
	fmt.Printf(row, "round", "wall s", "CPU s", "max RSS", "stored", "wall s", "CPU s", "max RSS", "stored", "ratio")
}

func printPair(name string, p pair) {
	cells := []any{name}
	for _, m := range []measurement{p.pgtrove, p.peer} {
		cells = append(cells, seconds(m.wall), seconds(m.cpu), mb(m.maxRSS), mb(m.repo))
	}
	fmt.Printf(row, append(cells, fmt.Sprintf("%.2f", p.ratio()))...)
}

// printMedians: each column's own median; the ratio is the median of the
// ratios pair by pair, not the ratio of the medians.
func printMedians(results []pair) {
	middle := func(of func(pair) measurement) measurement {
		return measurement{
			wall:   median(results, func(p pair) time.Duration { return of(p).wall }),
			cpu:    median(results, func(p pair) time.Duration { return of(p).cpu }),
			maxRSS: median(results, func(p pair) int64 { return of(p).maxRSS }),
			repo:   median(results, func(p pair) int64 { return of(p).repo }),
		}
	}
	m := pair{middle(func(p pair) measurement { return p.pgtrove }), middle(func(p pair) measurement { return p.peer })}
	cells := []any{"median"}
	for _, x := range []measurement{m.pgtrove, m.peer} {
		cells = append(cells, seconds(x.wall), seconds(x.cpu), mb(x.maxRSS), mb(x.repo))
	}
	fmt.Println(strings.Repeat("-", 102))
	ratio := median(results, pair.ratio)
	fmt.Printf(row, append(cells, fmt.Sprintf("%.2f", ratio))...)
	fmt.Printf("\npgtrove takes %.2f of pgBackRest's time (median of %d pairs). max RSS is that of the largest\n"+
		"process: all of pgtrove, one of pgBackRest's three.\n", ratio, len(results))
}

func median[T int64 | float64 | time.Duration](results []pair, of func(pair) T) T {
	values := make([]T, len(results))
	for i, p := range results {
		values[i] = of(p)
	}
	slices.Sort(values)
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }
func mb(n int64) string              { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
func gb(n int64) string              { return fmt.Sprintf("%.2f GB", float64(n)/1e9) }
