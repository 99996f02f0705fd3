package main

import (
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walreceiver"
)

// receiveJSON says how far wal receive is.
type receiveJSON struct {
	Type        string   `json:"type"` // "receive"
	Time        jsonTime `json:"time"`
	Connected   bool     `json:"connected"`
	Synchronous bool     `json:"synchronous"`
	Timeline    uint32   `json:"timeline"`
	Received    pg.LSN   `json:"received_lsn"`
	Durable     pg.LSN   `json:"durable_lsn"`
	Server      pg.LSN   `json:"server_lsn"` // the end of its WAL, as it last said
	Lag         uint64   `json:"lag"`        // bytes that the server has and the repository has not; at least so many where it is not connected
}

// events are what wal receive says while it runs.
func (w *walReceiver) events() walreceiver.Events {
	return walreceiver.Events{
		SlotMade: func(name string, lost bool) {
			if lost {
				w.out.warn("slot %s had lost its WAL (max_slot_wal_keep_size) and was made anew", name)
				return
			}
			w.out.info("made the replication slot %s: the server keeps WAL for it until `pgtrove wal receive --slot %s --drop-slot`", name, name)
		},
		Started: func(s walreceiver.Server, first pg.Segment) {
			size := s.SegmentSize
			w.out.info("receiving WAL of system %s, timeline %d, from %s on (%s); the server is at %s",
				s.System, uint32(first.Timeline), first.Start(size), first.Name(size), s.Position)
		},
		Missing: func(first, last pg.Segment, of pg.SegmentSize) {
			w.out.warn("the server has removed WAL that the repository lacks: %s from %s to %s; take a backup, recovery cannot go past the gap",
				showCount(int64(last.Number-first.Number+1), "segment", "segments"), first.Name(of), last.Name(of))
		},
		Disconnected: func(err error, since time.Time) {
			w.out.warn("%s; trying again (since %s)", w.redact(err.Error()), showTime(since))
		},
		Unstored: func(err error, since time.Time) {
			w.out.warn("the storage does not take WAL: %s; trying again (since %s)", w.redact(err.Error()), showTime(since))
		},
		Back: func(since time.Time) {
			w.out.info("the storage takes WAL again (it did not since %s)", showTime(since))
		},
		Mode:   w.tellMode,
		Warned: func(text string) { w.out.warn("%s", text) },
		Stored: func(name string, from, to int64, took time.Duration) {
			w.out.detail("stored %s, bytes %d to %d, in %s", name, from, to, showWait(took))
		},
		Progress: w.tellProgress,
	}
}

func (w *walReceiver) tellMode(synchronous bool) {
	if synchronous {
		w.out.info("the server waits for us (synchronous standby): all WAL is stored at once")
		return
	}
	w.out.info("the server does not wait for us any more: WAL is stored every %s", w.interval)
}

func (w *walReceiver) tellProgress(p walreceiver.Progress) {
	if w.settings.JSON {
		_ = w.out.object(receiveJSON{"receive", jsonTime(time.Now()), p.Connected, p.Synchronous, uint32(p.Timeline), p.Received, p.Durable, p.End, p.Lag()})
		return // who does not read it is no reason to end
	}
	lag := showBytes(int64(p.Lag()))
	if !p.Connected { // the server writes on, and nobody says how much
		w.out.info("not connected; received up to %s, in the repository up to %s, the server was at %s: at least %s behind", p.Received, p.Durable, p.End, lag)
		return
	}
	w.out.info("received up to %s, in the repository up to %s, the server is at %s: %s behind", p.Received, p.Durable, p.End, lag)
}
