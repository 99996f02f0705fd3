package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgtrove/pgtrove/repo"
)

// pruneRules are how forget, pin, unpin and prune end besides.
func pruneRules() []exitRule {
	return []exitRule{
		{name: "`repo.BlockedError`", as: isA[*repo.BlockedError], code: codeIncomplete,
			meaning: "an unfinished backup may be using what prune would delete; nothing was changed",
			hint:    "run prune again when it has ended. If it is dead, prune ends it once it has written nothing for --fence-after (24h by default)"},
		{name: "`repo.VanishedError`", as: isA[*repo.VanishedError], code: codeRefused,
			meaning: "snapshots are gone that nobody forgot; nothing was deleted", hintOf: vanishedHint},
		{name: "`repo.TimesError`", as: isA[*repo.TimesError], code: codeRefused,
			meaning: "most new snapshots were not stored when they say that they ended; their ages would be wrong", hintOf: timesHint},
		{name: "`repo.TooMuchError`", as: isA[*repo.TooMuchError], code: codeRefused,
			meaning: "prune would delete more at once than --max-delete allows", hintOf: tooMuchHint},
		{name: "`repo.ErrOvertaken`", is: repo.ErrOvertaken, code: codeBusy,
			meaning: "another prune runs at the same time and was first; this one deleted nothing",
			hint:    "let one host prune; run it again if there is more to do"},
		{name: "`repo.ErrPinned`", is: repo.ErrPinned, code: codeRefused,
			meaning: "the snapshot is pinned; nothing was changed",
			hint:    "`pgtrove unpin ID`, if nobody needs it any more"},
		{name: "`repo.ErrNotCounted`", is: repo.ErrNotCounted, code: codeAbsent,
			meaning: "the snapshot does not exist, or a prune has removed it",
			hint:    "`pgtrove snapshots` lists them; --cluster chooses the cluster"},
	}
}

func vanishedHint(err error) string {
	var v *repo.VanishedError
	if !errors.As(err, &v) {
		return "find out what removed them, and put the objects back; if it is known why they are gone, `pgtrove forget ID`"
	}
	ids := make([]string, len(v.Snapshots))
	unpin := ""
	for i, c := range v.Snapshots {
		ids[i] = c.ID
		if c.Pinned {
			unpin += "`pgtrove unpin " + c.ID + "`, "
		}
	}
	if unpin != "" {
		unpin += "as a pin keeps it from being forgotten, and "
	}
	return "find out what removed them from the storage, and put them back if there is a copy. If it is known why they are gone: " + unpin +
		"`pgtrove forget " + strings.Join(ids, " ") + "`"
}

// notePins fills in which of the snapshots that are gone are pinned, for the hint. Where that cannot be found out, forget says so.
func notePins(ctx context.Context, r *repo.Repo, v *repo.VanishedError) {
	pins, err := r.Pins(ctx)
	if err != nil {
		return
	}
	for i := range v.Snapshots {
		v.Snapshots[i].Pinned = pins[v.Snapshots[i].ID]
	}
}

// timesHint says what most likely happened.
func timesHint(err error) string {
	what := "was the repository copied, so that the storage has the times of the copy, or is a clock wrong?"
	var e *repo.TimesError
	if errors.As(err, &e) && e.Apart[0].Stored.Before(e.Apart[0].Ended) {
		what = "is the clock of the storage wrong, or that of the servers, or did a copy of the repository lose its times?"
	}
	return what + " If it is known why, --accept-times goes by the times of the snapshots, as far as the storage's and that of the prune before allow"
}

// tooMuchHint rounds the share that it takes up to tens.
func tooMuchHint(err error) string {
	var m *repo.TooMuchError
	if !errors.As(err, &m) || m.Stored.Bytes <= 0 {
		return "look at `pgtrove prune --dry-run`; if that is meant, say how much may go with --max-delete"
	}
	percent := min((m.Swept.Bytes*10/m.Stored.Bytes+1)*10, 100)
	return fmt.Sprintf("look at `pgtrove prune --dry-run`; if that is meant, `pgtrove prune --max-delete %d%%`", percent)
}
