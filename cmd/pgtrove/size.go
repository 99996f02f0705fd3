package main

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/pgtrove/pgtrove/repo"
)

// parseSize reads an amount of bytes: 500MB in powers of 1000, 2GiB in powers of 1024; without a unit it is bytes.
func parseSize(text string) (int64, error) {
	parts := regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)$`).FindStringSubmatch(text)
	if parts == nil {
		return 0, errSize(text)
	}
	unit := strings.ToUpper(parts[2])
	base := 1000.0
	if strings.HasSuffix(unit, "IB") {
		base, unit = 1024, strings.TrimSuffix(unit, "IB")+"B"
	}
	power := map[string]float64{"": 0, "B": 0, "KB": 1, "MB": 2, "GB": 3, "TB": 4, "PB": 5}
	p, ok := power[unit]
	if base == 1024 && unit == "B" { // "iB"
		ok = false
	}
	n, err := strconv.ParseFloat(parts[1], 64)
	if !ok || err != nil {
		return 0, errSize(text)
	}
	n *= math.Pow(base, p)
	if n >= math.MaxInt64 {
		return 0, errSize(text)
	}
	return int64(n), nil
}

func errSize(text string) error {
	return fmt.Errorf("%q: give a size such as 500MB or 2GiB, or 0", text)
}

// parsePercent reads a share as N%: 0 to 1.
func parsePercent(text string) (float64, error) {
	number, ok := strings.CutSuffix(text, "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(n >= 0 && n <= 100) {
		return 0, fmt.Errorf("%q: give a share from 0%% to 100%%", text)
	}
	return n / 100, nil
}

// parseDays reads a number of whole days, 14d; nothing is 0.
func parseDays(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	number, ok := strings.CutSuffix(text, "d")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 1 || n > repo.MaxObjectLockDays {
		return 0, fmt.Errorf("%q: give a number of days such as 14d", text)
	}
	return n, nil
}
