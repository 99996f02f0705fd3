package pgsource_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/pgsource"
	"github.com/pgtrove/pgtrove/test/pgtest"
)

func TestArchiverStatus(t *testing.T) {
	s := running(t, "15", pgtest.Options{Conf: map[string]string{"archive_mode": "on", "archive_command": "true"}})
	c := connect(t, s)
	if a, err := c.ArchiverStatus(t.Context()); err != nil || a != (pgsource.ArchiverStatus{}) {
		t.Errorf("%+v, %v", a, err)
	}
	name := s.SwitchWAL(t)
	s.WaitArchived(t, name)
	a, err := c.ArchiverStatus(t.Context())
	if err != nil || a.LastArchived != name || a.Archived != 1 || a.Failed != 0 || time.Since(a.LastTime) > time.Minute || !a.FailedTime.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWhatWaitsForTheArchiverIsCounted(t *testing.T) {
	s := running(t, "15", pgtest.Options{WALSegMB: 1, Conf: map[string]string{"archive_mode": "on", "archive_command": "false"}})
	c := connect(t, s)
	if w, err := c.WaitingWAL(); err != nil || w.Files != 0 {
		t.Errorf("%+v, %v", w, err)
	}
	first, second := s.SwitchWAL(t), s.SwitchWAL(t)
	w, err := c.WaitingWAL()
	if err != nil || w.Files != 2 || w.First != first || time.Since(w.Since) > time.Minute {
		t.Errorf("%+v, %v", w, err)
	}
	if ready, done := c.ArchiveMark(second); !ready || done {
		t.Errorf("%s: ready %t, done %t", second, ready, done)
	}
	s.Configure(t, map[string]string{"archive_command": "true"})
	s.Reload(t)
	s.WaitArchived(t, s.SwitchWAL(t))
	if ready, done := c.ArchiveMark(second); ready || !done {
		t.Errorf("%s: ready %t, done %t", second, ready, done)
	}
	if ready, done := c.ArchiveMark("0000000100000000000000FF"); ready || done {
		t.Errorf("of no file: ready %t, done %t", ready, done)
	}
	if absent, err := c.ArchiverAbsent(t.Context()); err != nil || absent {
		t.Errorf("absent: %t, %v", absent, err)
	}
}

func TestSlotsSayWhatTheyHold(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		s := running(t, version, pgtest.Options{WALSegMB: 1, Conf: map[string]string{"wal_level": "logical", "max_replication_slots": "8"}})
		c := connect(t, s)
		s.Exec(t, "SELECT pg_create_physical_replication_slot('pgtrove', true), pg_create_physical_replication_slot('unused'), "+
			"pg_create_physical_replication_slot('brief', true, true); SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')")
		for range 3 {
			s.SwitchWAL(t)
		}
		slots := func() []pgsource.Slot {
			t.Helper()
			all, err := c.Slots(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		all := slots()
		var names []string
		for _, slot := range all {
			names = append(names, slot.Name)
			if slot.Active || slot.Lost || slot.Logical != (slot.Name == "decoded") || slot.Receives("") != (slot.Name == "pgtrove") || slot.Receives("unused") != (slot.Name != "decoded") || slot.Safe != -1 {
				t.Errorf("%+v", slot)
			}
			if held := slot.Holds >= 2<<20; held == (slot.Name == "unused") {
				t.Errorf("%+v", slot)
			}
		}
		if !slices.Equal(names, []string{"decoded", "pgtrove", "unused"}) {
			t.Errorf("slots %v", names)
		}

		s.Configure(t, map[string]string{"max_slot_wal_keep_size": "32MB"})
		s.Reload(t)
		s.WaitQuery(t, "SHOW max_slot_wal_keep_size", "32MB", time.Minute)
		if slot := slots()[1]; slot.Safe <= 0 || slot.Safe > 33<<20 {
			t.Errorf("%+v", slot)
		}
		for range 40 {
			s.SwitchWAL(t)
		}
		s.Exec(t, "CHECKPOINT")
		if slot := slots()[1]; !slot.Lost || slot.Holds != -1 {
			t.Errorf("%+v", slot)
		}
	})
}

func TestTheNewestSegmentOfAStandbyIsOnTheTimelineThatItWasWrittenOn(t *testing.T) {
	s := running(t, "15", pgtest.Options{WALSegMB: 1})
	standby := s.NewStandby(t)
	standby.Start(t)
	name := s.SwitchWAL(t)
	c := connect(t, standby)
	size := c.Info().Layout.WALSegmentSize
	want, err := pg.ParseSegment(name, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitSegment(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got, err := c.LastSegment(t.Context()); err != nil || got != want {
		t.Errorf("%s, %v; want %s", got.Name(size), err, name)
	}
	// It follows a promotion of its primary that it has heard of, and has no segment of the new timeline yet.
	history := standby.Dir + "/pg_wal/00000002.history"
	write(t, history, "1\t"+standby.Query(t, "SELECT pg_last_wal_receive_lsn() + 64")+"\tno recovery target specified\n")
	pgtest.Own(t, history)
	if got, err := c.LastSegment(t.Context()); err != nil || got != want {
		t.Errorf("after a promotion: %s, %v; want %s", got.Name(size), err, name)
	}
}
