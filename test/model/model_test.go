package model

import (
	"context"
	"flag"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// Flags of the model; the zero values are for make test.
var (
	seedFlag = flag.Uint64("model.seed", 0, "replay the schedule of this seed, with its trace")
	nFlag    = flag.Int("model.n", 2000, "how many schedules to run")
	fromFlag = flag.Uint64("model.from", 1, "the first seed")
	timeFlag = flag.Duration("model.time", 20*time.Second, "how long to run at most; 0: as long as it takes")
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
	var sum tally
	began := time.Now()
	for seed := *fromFlag; seed < *fromFlag+uint64(*nFlag); seed++ {
		r := play(t, m, newScript(seed), false)
		sum.add(r.tally)
		if r.violation != "" {
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

// replay runs the schedule of a seed again; if it fails, the shrunk one, with its trace.
func replay(t *testing.T, m *image, seed uint64) {
	t.Helper()
	r := play(t, m, newScript(seed), true)
	if r.violation == "" {
		t.Logf("the schedule of seed %d keeps every promise:\n%s", seed, r.trace)
		return
	}
	kind := kindOf(r.violation)
	t.Logf("seed %d: %s", seed, r.violation)
	short := shrink(r.choices, *trials, func(c map[string][]int) bool {
		return kindOf(play(t, m, repeat(seed, c), false).violation) == kind
	})
	r = play(t, m, repeat(seed, short), true)
	t.Errorf("violation: %s\nshrunk schedule of seed %d:\n%s\nviolation: %s", r.violation, seed, r.trace, r.violation)
}
