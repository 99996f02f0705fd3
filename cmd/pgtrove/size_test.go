package main

import "testing"

func TestSizesAreReadInTheUnitThatTheyName(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "17B": 17, "500MB": 500_000_000, "500 MB": 500_000_000, "2GiB": 2 << 30, "1.5kib": 1536, "16TiB": 16 << 40, "3tb": 3e12,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MB", "-1", "1M", "1iB", "1 2MB", "9000PiB", "1e3", "1,5GB", "0x10", "NaN", "1GB/s"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestSharesAreReadInPercentOnly(t *testing.T) {
	for text, want := range map[string]float64{"0%": 0, "50%": 0.5, "100%": 1, "12.5 %": 0.125} {
		if got, err := parsePercent(text); err != nil || got != want {
			t.Errorf("%q is %g (%v), want %g", text, got, err, want)
		}
	}
	for _, text := range []string{"", "%", "50", "0.5", "101%", "-1%", "NaN%", "50%%"} {
		if got, err := parsePercent(text); err == nil {
			t.Errorf("%q is %g", text, got)
		}
	}
}
