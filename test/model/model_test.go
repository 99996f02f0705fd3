package model

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

// Flags of the model; the zero values are for make test.
var (
	seedFlag = flag.Uint64("model.seed", 0, "replay the schedule of this seed, with its trace")
	nFlag    = flag.Int("model.n", 3000, "how many schedules to run")
	fromFlag = flag.Uint64("model.from", 1, "the first seed")
	timeFlag = flag.Duration("model.time", 20*time.Second, "how long to run at most; 0: as long as it takes")
	only     = flag.String("model.only", "", "pass over violations that do not match this regular expression")
	parts    = flag.Int("model.processes", 1, "run the schedules in so many processes")
	around   = flag.String("model.around", "", "look for delays around these calls: \"put pins/,put gc/\"")
	trials   = flag.Int("model.shrink", 2000, "how many schedules to try in order to shrink one that fails")
)

// pieces is how many chunks there can be.
const pieces = 6

func image0(t *testing.T) *image {
	t.Helper()
	runtime.GOMAXPROCS(1) // goroutines hand over to each other, one at a time; that is fastest on one thread
	debug.SetGCPercent(400)
	m, err := newImage(context.Background(), pieces)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSchedulesKeepEveryPromise(t *testing.T) {
	m := image0(t)
	if *seedFlag != 0 {
		replay(t, m, *seedFlag)
		return
	}
	if *parts > 1 {
		divide(t)
		return
	}
	counts := regexp.MustCompile(*only)
	var sum tally
	began := time.Now()
	for seed := *fromFlag; seed < *fromFlag+uint64(*nFlag); seed++ {
		r := play(t, m, newScript(seed, parsePoints(*around)...), false)
		sum.add(r.tally)
		if r.violation != "" && counts.MatchString(r.violation) {
			t.Logf("violation after %d schedules, in that of seed %d: %s", sum.Schedules, seed, r.violation)
			replay(t, m, seed)
			return
		}
		if *timeFlag > 0 && time.Since(began) > *timeFlag {
			break
		}
	}
	t.Logf("%.0f schedules per second; %s", float64(sum.Schedules)/time.Since(began).Seconds(), &sum)
}

// divide runs the schedules in several processes: random numbers are one process's, and so is a schedule.
func divide(t *testing.T) {
	t.Helper()
	each := *nFlag / *parts
	var all sync.WaitGroup
	for i := range *parts {
		all.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run", "^TestSchedulesKeepEveryPromise$", "-test.timeout", "0",
				"-model.n", fmt.Sprint(each), "-model.from", fmt.Sprint(*fromFlag+uint64(i*each)), "-model.time", timeFlag.String())
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v", i, err)
			}
			t.Logf("process %d:\n%s", i, out)
		})
	}
	all.Wait()
}

// replay runs the schedule of a seed again; if it fails, the shrunk one, with its trace.
func replay(t *testing.T, m *image, seed uint64) {
	t.Helper()
	points := parsePoints(*around)
	r := play(t, m, newScript(seed, points...), true)
	if r.violation == "" {
		t.Logf("the schedule of seed %d keeps every promise:\n%s", seed, r.trace)
		return
	}
	kind := kindOf(r.violation)
	t.Logf("seed %d: %s", seed, r.violation)
	short := shrink(r.choices, *trials, func(c map[string][]int) bool {
		return kindOf(play(t, m, repeat(seed, c, points...), false).violation) == kind
	})
	r = play(t, m, repeat(seed, short, points...), true)
	t.Errorf("violation: %s\nshrunk schedule of seed %d:\n%s\nviolation: %s", r.violation, seed, r.trace, r.violation)
}

func TestTheSameSeedGivesTheSameSchedule(t *testing.T) {
	m := image0(t)
	for seed := uint64(1); seed <= 100; seed++ {
		first := play(t, m, newScript(seed), true)
		if again := play(t, m, newScript(seed), true); again.trace != first.trace {
			t.Fatalf("seed %d gave two traces, which differ at %s", seed, difference(first.trace, again.trace))
		}
		if again := play(t, m, repeat(seed, first.choices), true); again.trace != first.trace {
			t.Fatalf("seed %d and its choices gave two traces, which differ at %s", seed, difference(first.trace, again.trace))
		}
	}
}

func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d:\n%s\n\n%s", i+1, strings.Join(x[max(0, i-4):min(i+3, len(x))], "\n"), strings.Join(y[max(0, i-4):min(i+3, len(y))], "\n"))
		}
	}
	return fmt.Sprintf("the end: %d and %d lines", len(x), len(y))
}
