package main

import (
	"fmt"
	"testing"
	"time"
)

func TestSharesOfDataToRead(t *testing.T) {
	for text, want := range map[string]uint64{"100%": 1, "5%": 20, "50%": 2, "30%": 4, "33.4%": 3, "99%": 2, "0.1%": 1000, "10%": 10, "20%": 5, "2.5%": 40} {
		if got, err := parseReadShare(text); err != nil || got.slices != want {
			t.Errorf("%s: %d slices, want %d (%v)", text, got.slices, want, err)
		}
	}
	for _, text := range []string{"0%", "-1%", "101%", "5", "", "%", "NaN%", "x%", "0.001%"} {
		if got, err := parseReadShare(text); err == nil {
			t.Errorf("%q: %d slices", text, got.slices)
		}
	}
}

func TestEveryObjectIsInOneSlice(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 7, 20, 1000, maxSlices} {
		for k := range min(n, 50) {
			s := slice(k, n)
			if k == 0 && s.From != 0 || k > 0 && s.From != slice(k-1, n).To+1 || s.From > s.To {
				t.Errorf("slice %d of %d: %+v", k, n, s)
			}
		}
		if last := slice(n-1, n); last.To != 1<<64-1 {
			t.Errorf("the last slice of %d: %+v", n, last)
		}
	}
	sizes := map[uint64]int{}
	for i := range 20_000 {
		for k := range uint64(20) {
			if slice(k, 20).has(position(fmt.Sprint("packs/s/", i))) {
				sizes[k]++
			}
		}
	}
	for k := range uint64(20) {
		if sizes[k] < 800 || sizes[k] > 1200 {
			t.Errorf("slice %d has %d of 20000 objects", k, sizes[k])
		}
	}
}

func TestRunsOfOneShareAddUpToEverything(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	everything := slice(0, 1)
	for _, n := range []uint64{1, 3, 4, 20} {
		var c coverage
		for run := range 3 * n {
			k := c.next(n)
			if k != run%n {
				t.Errorf("run %d of %d slices reads slice %d", run, n, k)
			}
			s := slice(k, n)
			s.Read = now.Add(time.Duration(run) * time.Hour)
			c = c.with(s)
			since := c.since(everything)
			switch {
			case run+1 < n && (!since.IsZero() || c.left(n) != n-run-1):
				t.Errorf("run %d of %d: everything since %v, %d left", run, n, since, c.left(n))
			case run+1 >= n && (!since.Equal(now.Add(time.Duration(run+1-n)*time.Hour)) || c.left(n) != 0):
				t.Errorf("run %d of %d: everything since %v", run, n, since)
			}
		}
		if len(c) > int(n) {
			t.Errorf("%d stretches of %d slices", len(c), n)
		}
		// Another share goes on where most is to be gained, and reading everything is everything.
		if k := c.with(stretch{From: slice(1, 5).From, To: slice(1, 5).To, Read: now.Add(1000 * time.Hour)}).next(5); k == 1 {
			t.Error("what was just read is next")
		}
		whole := everything
		whole.Read = now.Add(2000 * time.Hour)
		if c = c.with(whole); len(c) != 1 || !c.since(slice(2, 7)).Equal(whole.Read) {
			t.Errorf("%+v", c)
		}
	}
}
