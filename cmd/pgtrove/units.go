package main

import (
	"fmt"
	"time"
)

// showBytes writes a size for people, in powers of 1024.
func showBytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1023.95 && unit < 4 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[unit])
}

// showDuration writes a span for people, in its two largest units.
func showDuration(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()+0.5))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// showLeft writes an estimate: no fractions of seconds, and never nothing.
func showLeft(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d s", max(int(d.Seconds()+0.5), 1))
	}
	return showDuration(d)
}

// showCount writes n things.
func showCount(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// showShare writes part of whole in percent; nothing of nothing is all of it.
func showShare(part, whole int64) string {
	if whole <= 0 {
		return "100 %"
	}
	p := float64(part) / float64(whole) * 100
	if p > 0 && p < 10 {
		return fmt.Sprintf("%.1f %%", p)
	}
	if p > 99 && p < 100 { // never round up to all
		return fmt.Sprintf("%.1f %%", min(p, 99.9))
	}
	return fmt.Sprintf("%.0f %%", p)
}
