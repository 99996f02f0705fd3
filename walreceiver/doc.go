// Package walreceiver streams WAL out of a running server, through a replication slot, into an archive: parts of the segment that is being written every few
// seconds or, for a synchronous standby, as soon as the part before is durable; and the finished segment as one file. The server is told that WAL is flushed
// only once it is durable in the archive.
//
// It never opens storage, never reads records itself and prints nothing: cmd passes in how to connect, the archive, a reader of records (walsource), and is told
// what happens by Events.
//
// Memory: the segments that are received and not stored yet, at most 64 MiB of them or two, if that is more (at least two, at most 16), and for each of those
// that are being stored what the archive needs besides. When they are full and the storage does not answer, the connection is given up: a server never waits for us.
package walreceiver

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// Errors of this package, for errors.Is.
var (
	// ErrSystem says that the server is not of the cluster that was received before.
	ErrSystem = errors.New("another cluster's server")
	// ErrSlot says that the slot cannot be made, or is not one for WAL.
	ErrSlot = errors.New("no usable replication slot")
	// ErrNoSlot says that the server has no slot of that name.
	ErrNoSlot = errors.New("no such replication slot")
	// ErrSlotInUse says that another process uses the slot.
	ErrSlotInUse = errors.New("the replication slot is in use")
	// ErrUnstored says that the end came before everything that was received could be stored. The server keeps it.
	ErrUnstored = errors.New("not everything that was received is stored")
)

// Archive is where WAL goes; walarchive.Archive is one. On nil of Push and PushPart the content is durable.
type Archive interface {
	Push(ctx context.Context, file string, content []byte, f walarchive.Facts) (same bool, err error)
	PushPart(ctx context.Context, p walarchive.Part) error
	Scan(ctx context.Context, size pg.SegmentSize) (*walarchive.Coverage, error)
}

// Opened is the archive of one cluster.
type Opened struct {
	Archive
	// Fresh says that those who fetch WAL may not look for parts for another minute: so long none counts as durable.
	Fresh bool
	// Complete makes a segment a whole file in the archive if all of it is there in parts; false if it is a whole one already, or is not there.
	Complete func(ctx context.Context, segment string) (bool, error)
}

// Follower reads the records of one segment while it is received; walsource has one.
type Follower interface {
	// Extend reads on up to the offset to. An error says that this is not the segment that it should be.
	Extend(to int) error
	// Facts says what is known of the segment up to there; false before its first page's header was read.
	Facts() (walarchive.Facts, bool)
}

// Server is what a connected server says of itself.
type Server struct {
	System      pg.SystemID
	Timeline    pg.Timeline
	Position    pg.LSN // up to where it can send
	SegmentSize pg.SegmentSize
	BlockSize   uint32        // of WAL pages, bytes
	Timeout     time.Duration // wal_sender_timeout; 0: none
}

// Dial connects to the server of the settings. beside opens another connection to that very server, an ordinary one or one for replication.
type Dial func(ctx context.Context) (conn *pgx.Conn, beside Beside, err error)

// Beside opens another connection to the server of a connection.
type Beside func(ctx context.Context, replication bool) (*pgx.Conn, error)

// Options of Run.
type Options struct {
	Dial Dial
	// Open is called once, with the first server that answers.
	Open func(ctx context.Context, s Server) (*Opened, error)
	// Follow makes ready to read a segment that is received into data; before is the segment before it, or nil.
	Follow func(s Server, segment string, data, before []byte) Follower
	// Lasting says of an error, of a server or of the archive, that it does not pass by itself. Run ends with it.
	Lasting     func(error) bool
	Slot        string
	Interval    time.Duration // between two parts
	Report      time.Duration // between two calls of Events.Progress
	Synchronous bool          // a part as soon as the one before is durable, whatever the server says
	Events      Events
}

// Events are told what a person may want to know of. Functions may be nil. They are called from one goroutine.
type Events struct {
	SlotMade     func(name string, lost bool)                          // lost: the one that was there had lost its WAL
	Started      func(s Server, first pg.Segment)                      // WAL is received from the segment's first byte on
	Missing      func(first, last pg.Segment, size pg.SegmentSize)     // segments that the server has removed and the archive lacks
	Disconnected func(err error, since time.Time)                      // once per outage, and again every ten minutes
	Unstored     func(err error, since time.Time)                      // the storage does not take what is to be stored; as often
	Back         func(since time.Time)                                 // it does again
	Mode         func(synchronous bool)                                // the server waits for us, or no longer
	Warned       func(text string)                                     // anything else
	Stored       func(name string, from, to int64, took time.Duration) // a part, or a whole segment
	Progress     func(p Progress)                                      // now and then
}

// Progress is how far it is.
type Progress struct {
	Connected   bool
	Synchronous bool
	Timeline    pg.Timeline
	Received    pg.LSN
	Durable     pg.LSN
	End         pg.LSN // the server's, as it last said; 0: unknown
}

// Lag is how many bytes of WAL the server has and the archive has not.
func (p Progress) Lag() uint64 { return uint64(max(p.End, p.Received) - p.Durable) }

const (
	tellEvery = 10 * time.Minute
	// freshFor is for how long readers may not know that there are parts: they look once a minute.
	freshFor = 70 * time.Second
	// stopPatience is for how long what was received is tried to be stored when the end has come.
	stopPatience = 10 * time.Second
	// stallPatience is for how long a server may have to wait because the storage is slow.
	stallPatience = 3 * time.Second
	// askPatience is how long an answer may wait for the storage.
	askPatience = time.Second
	// statusEvery is how often the server is told at least.
	statusEvery = 10 * time.Second
	// silence is after what time a server that says nothing is asked whether it is there; after twice that it counts as lost.
	silence = 30 * time.Second
)

func (e *Events) fill() {
	if e.SlotMade == nil {
		e.SlotMade = func(string, bool) {}
	}
	if e.Started == nil {
		e.Started = func(Server, pg.Segment) {}
	}
	if e.Missing == nil {
		e.Missing = func(_, _ pg.Segment, _ pg.SegmentSize) {}
	}
	if e.Disconnected == nil {
		e.Disconnected = func(error, time.Time) {}
	}
	if e.Unstored == nil {
		e.Unstored = func(error, time.Time) {}
	}
	if e.Back == nil {
		e.Back = func(time.Time) {}
	}
	if e.Mode == nil {
		e.Mode = func(bool) {}
	}
	if e.Warned == nil {
		e.Warned = func(string) {}
	}
	if e.Stored == nil {
		e.Stored = func(string, int64, int64, time.Duration) {}
	}
	if e.Progress == nil {
		e.Progress = func(Progress) {}
	}
}
