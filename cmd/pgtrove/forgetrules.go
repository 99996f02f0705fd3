package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/pgtrove/pgtrove/snapshot"
)

// ruleFlags are the flags of forget that make its policy.
type ruleFlags struct {
	last, hourly, daily, weekly, monthly, yearly int
	within, pitr                                 string
}

func (r *ruleFlags) add(f *pflag.FlagSet) {
	f.IntVar(&r.last, "keep-last", 0, "keep the newest `N` snapshots")
	f.IntVar(&r.hourly, "keep-hourly", 0, "keep the newest snapshot of each of the last `N` hours that have one")
	f.IntVar(&r.daily, "keep-daily", 0, "likewise of the last `N` days")
	f.IntVar(&r.weekly, "keep-weekly", 0, "likewise of the last `N` weeks, from Monday")
	f.IntVar(&r.monthly, "keep-monthly", 0, "likewise of the last `N` months")
	f.IntVar(&r.yearly, "keep-yearly", 0, "likewise of the last `N` years")
	f.StringVar(&r.within, "keep-within", "", "keep all snapshots of this `time` before the newest, such as 7d or 1y6m")
	f.StringVar(&r.pitr, "pitr-window", "", "keep every moment of this last `time` recoverable, and for older snapshots only their own WAL")
}

// given is the first of the rules on the command line; "" if there is none.
func (r *ruleFlags) given(f *pflag.FlagSet) string {
	for _, name := range []string{"keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly", "keep-within", "pitr-window"} {
		if f.Changed(name) {
			return "--" + name
		}
	}
	return ""
}

func (r *ruleFlags) policy() (p snapshot.Policy, err error) {
	for name, n := range map[string]int{"last": r.last, "hourly": r.hourly, "daily": r.daily, "weekly": r.weekly, "monthly": r.monthly, "yearly": r.yearly} {
		if n < 0 {
			return p, fmt.Errorf("--keep-%s %d: give a number of snapshots", name, n)
		}
	}
	p = snapshot.Policy{Last: r.last, Hourly: r.hourly, Daily: r.daily, Weekly: r.weekly, Monthly: r.monthly, Yearly: r.yearly}
	if r.within != "" {
		if p.Within, err = snapshot.ParsePeriod(r.within); err != nil {
			return p, fmt.Errorf("--keep-within %w", err)
		}
	}
	if r.pitr != "" {
		if p.PITR, err = snapshot.ParsePeriod(r.pitr); err != nil {
			return p, fmt.Errorf("--pitr-window %w", err)
		}
	}
	return p, nil
}
