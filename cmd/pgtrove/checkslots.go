package main

import (
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/pgsource"
)

// slots tells which replication slots make the server keep WAL for nobody, and how far behind a receiver is.
func (c *checkup) slots(all []pgsource.Slot) {
	for _, s := range all {
		status := statusAdvice
		ours := s.Receives(c.slot)
		if ours {
			status = statusProblem
		}
		kind := "physical"
		if s.Logical {
			kind = "logical"
		}
		drop := fmt.Sprintf("SELECT pg_drop_replication_slot('%s');", s.Name)
		receive := "`pgtrove wal receive`"
		if s.Name != pgsource.ReceiverSlot {
			receive = fmt.Sprintf("`pgtrove wal receive --slot %s`", s.Name)
		}
		switch {
		case s.Lost && ours:
			c.add("slots", status, "start "+receive+", which makes it anew; then take a backup, if `pgtrove info` shows a gap",
				"the server has removed WAL that slot %s was to keep (max_slot_wal_keep_size)", s.Name)
		case s.Lost:
			c.add("slots", status, drop, "the server has removed WAL that the %s slot %s was to keep: it is of no use any more", kind, s.Name)
		case s.Active && ours:
			c.ok("slots", "slot %s is in use by %q, %s behind", s.Name, s.Application, showBytes(max(s.Holds, 0)))
		case s.Active:
		case ours:
			c.add("slots", status, "start "+receive+"; or, if it is not used any more, run that with --drop-slot",
				"nobody receives from slot %s%s: %s", s.Name, since(s), keeps(s))
		case s.Holds > int64(c.cluster.Info().Layout.WALSegmentSize):
			c.add("slots", status, "if it is not used any more: "+drop, "the %s slot %s is not in use%s: %s", kind, s.Name, since(s), keeps(s))
		}
	}
}

func since(s pgsource.Slot) string {
	if s.Since.IsZero() {
		return ""
	}
	return ", for " + showDuration(time.Since(s.Since))
}

// keeps says how much WAL a slot holds, and how that ends.
func keeps(s pgsource.Slot) string {
	switch {
	case s.Holds < 0:
		return "it holds no WAL yet"
	case s.Safe < 0:
		return fmt.Sprintf("the server keeps %s of WAL for it, and more and more until its disk is full (max_slot_wal_keep_size sets an end)", showBytes(s.Holds))
	}
	return fmt.Sprintf("the server keeps %s of WAL for it, and drops it after %s more (max_slot_wal_keep_size)", showBytes(s.Holds), showBytes(s.Safe))
}
