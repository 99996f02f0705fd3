package main

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/pflag"
)

// standbyFlags say from where a restored standby streams what the archive does not have yet.
type standbyFlags struct {
	conninfo, slot string // primary_conninfo and primary_slot_name; "" leaves them unset
}

func (s *standbyFlags) add(f *pflag.FlagSet) {
	f.StringVar(&s.conninfo, "primary-conninfo", "", "with --standby, connection `string` of the server to stream from, without password")
	f.StringVar(&s.slot, "primary-slot", "", "with --standby, `name` of its replication slot there; make it before the standby starts")
}

func (s *standbyFlags) given() bool { return s.conninfo != "" || s.slot != "" }

// check refuses what the server would find out only when it streams, and go on asking for ever.
func (s *standbyFlags) check() error {
	if hasPassword(s.conninfo) {
		return restoreUsage(errors.New("--primary-conninfo holds a password: put it into ~/.pgpass of the account that the standby runs as, command lines are public"))
	}
	if s.conninfo != "" {
		if _, err := pgconn.ParseConfig(s.conninfo); err != nil {
			return restoreUsage(fmt.Errorf("--primary-conninfo %q: %w", s.conninfo, err))
		}
	}
	// ReplicationSlotValidateName in PostgreSQL's src/backend/replication/slot.c.
	if s.slot != "" && !regexp.MustCompile(`^[a-z0-9_]{1,63}$`).MatchString(s.slot) {
		return restoreUsage(fmt.Errorf("--primary-slot %q: names of slots have small letters, digits and underscores, 63 at most", s.slot))
	}
	if s.slot != "" && s.conninfo == "" {
		return restoreUsage(errors.New("--primary-slot without --primary-conninfo: say which server has it"))
	}
	return nil
}
