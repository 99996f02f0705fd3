package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestForgetIsToldWhatToForgetInOneWay(t *testing.T) {
	for args, want := range map[string]string{
		"":                           "SNAPSHOT is missing",
		"--dry-run":                  "SNAPSHOT is missing",
		"--keep-last 0":              "--keep-last 0 keeps nothing",
		"--keep-daily -1":            "--keep-daily -1: give a number",
		"--keep-daily seven":         "invalid argument",
		"--keep-within 7":            `--keep-within "7": give a time such as`,
		"--pitr-window 0d":           `--pitr-window "0d": give a time such as`,
		"abc --keep-last 3":          "both snapshots and a rule (--keep-last) are given",
		"abc --pitr-window 7d":       "both snapshots and a rule (--pitr-window) are given",
		"abc --all-clusters":         "are for rules",
		"abc --accept-times":         "are for rules",
		"--keep-last 3 --allow-last": "--allow-last is for snapshots by name",
		"--cluster a --all-clusters --keep-last 3": "both --cluster and --all-clusters",
		"latest": "run twice it would forget two snapshots",
	} {
		a := newApp()
		a.stdout, a.stderr = io.Discard, io.Discard
		root := newRootCommand(a)
		root.SetArgs(append([]string{"forget"}, strings.Fields(args)...))
		err := root.ExecuteContext(t.Context())
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) || classify(err).code != codeUsage {
			t.Errorf("forget %s: %v, want %q", args, err, want)
		}
	}
}
