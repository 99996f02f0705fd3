package walreceiver

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

// flow holds what was received and is not stored yet, and says what is to be stored next. It knows neither server nor archive, and no clock: whoever uses it
// passes the time. It is for one goroutine; the bytes of a job may be read by others until the job is done.
type flow struct {
	size     pg.SegmentSize
	interval time.Duration
	follow   func(segment string, data, before []byte) Follower

	segments []*segment // in order; the last one is being received
	spare    [][]byte   // memory for others
	base     pg.LSN     // all before it is durable, in whole segments
	goal     pg.LSN     // what was received up to here is to be stored now
	due      time.Time  // when all that was received by then becomes the goal; zero: nothing waits
	urgent   bool       // somebody waits for each byte
	parting  bool       // a part is being stored
	pushing  int        // segments that are being stored
	until    time.Time  // nothing is begun before: the storage has failed
	failures int        // in a row
	failed   time.Time  // the first of them
	lastErr  error
}

// segment is one that is in memory.
type segment struct {
	pg.Segment
	name     string
	receiver string // ID
	data     []byte // the whole segment, zero behind what was received
	filled   int    // bytes received
	follower Follower
	begins   []int // where each part begins that none replaced, ascending: a part ends where the next one begins, the last at parted
	parted   int   // bytes that parts hold, from the first
	parting  bool
	pushing  bool
	begun    time.Time // when pushing began
	stored   bool      // as a whole
}

// job is something to be stored: a part, or a finished segment.
type job struct {
	segment  *segment
	part     bool
	from, to int
	facts    walarchive.Facts
	begun    time.Time
}

const (
	// largest is how long a part gets by taking in those before it. See segment.begin.
	largest = 256 << 10
	// memory is how much of segments is held, if that is two of them at least.
	memory      = 64 << 20
	maxSegments = 16
	maxPushes   = 4
	// headerBytes are what must have been received of a segment before anything is known of it.
	headerBytes = 40

	firstPause   = time.Second
	longestPause = 15 * time.Second
)

// errStream says that the server sent something else than what comes next.
var errStream = errors.New("the stream of WAL is broken")

// bound is how many segments are held.
func (f *flow) bound() int { return min(max(memory/int(f.size), 2), maxSegments) }

// begin makes it ready to receive a segment from its first byte on. What is not stored is forgotten. The memory of what is on its way still, as a storage that hangs
// may keep it, is not used again.
func (f *flow) begin(s pg.Segment) {
	for _, old := range f.segments {
		if !old.parting && !old.pushing {
			f.recycle(old)
		}
	}
	f.segments, f.parting, f.pushing, f.due = nil, false, 0, time.Time{}
	f.base = s.Start(f.size)
	f.goal = f.base
	f.open(s, nil)
}

func (f *flow) open(s pg.Segment, before []byte) {
	name := s.Name(f.size)
	var data []byte
	if n := len(f.spare); n > 0 {
		data, f.spare = f.spare[n-1], f.spare[:n-1]
	} else {
		data = make([]byte, f.size)
	}
	f.segments = append(f.segments, &segment{Segment: s, name: name, receiver: newReceiver(), data: data, follower: f.follow(name, data, before)})
}

func (f *flow) recycle(s *segment) {
	clear(s.data[:s.filled])
	f.spare = append(f.spare, s.data)
}

// newReceiver makes the ID of a run over one segment.
func newReceiver() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return time.Now().UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}

func (f *flow) last() *segment { return f.segments[len(f.segments)-1] }

// received is where the next byte belongs.
func (f *flow) received() pg.LSN {
	s := f.last()
	return s.Start(f.size) + pg.LSN(s.filled)
}

// take takes in bytes that belong at lsn, as far as there is room, and returns the rest. Errors: errStream; what a Follower says of WAL that does not belong here.
func (f *flow) take(now time.Time, lsn pg.LSN, data []byte) (rest []byte, err error) {
	if lsn != f.received() {
		return nil, fmt.Errorf("%w: the server sent WAL from %s, not from %s", errStream, lsn, f.received())
	}
	for len(data) > 0 {
		s := f.last()
		if s.filled == len(s.data) {
			if len(f.segments) >= f.bound() {
				return data, nil
			}
			f.open(s.Next(), s.data)
			continue
		}
		n := copy(s.data[s.filled:], data)
		s.filled += n
		data = data[n:]
		if err := s.follower.Extend(s.filled); err != nil {
			return nil, err
		}
		if f.due.IsZero() {
			f.due = now.Add(f.interval)
		}
		f.release()
	}
	if f.urgent {
		f.goal = f.received()
	}
	return nil, nil
}

// hurry makes all that was received the goal.
func (f *flow) hurry() { f.goal = f.received() }

// jobs returns what is to be begun now.
func (f *flow) jobs(now time.Time) (jobs []job) {
	if !f.due.IsZero() && !now.Before(f.due) {
		f.goal, f.due = f.received(), time.Time{}
	}
	if now.Before(f.until) {
		return nil
	}
	for _, s := range f.segments {
		if s.filled < len(s.data) || s.stored || s.pushing || f.pushing >= min(f.bound()-1, maxPushes) {
			continue
		}
		if facts, ok := s.follower.Facts(); ok {
			s.pushing, s.begun = true, now
			f.pushing++
			jobs = append(jobs, job{segment: s, to: s.filled, facts: facts, begun: now})
		}
	}
	if j, ok := f.part(now); ok {
		jobs = append(jobs, j)
	}
	return jobs
}

// part returns the next part, if one is to be stored: of the first segment that lacks something of the goal. One at a time, so that what comes meanwhile
// goes into the next. A finished segment that is on its way gets one only where somebody waits, or it takes long.
func (f *flow) part(now time.Time) (job, bool) {
	if f.parting {
		return job{}, false
	}
	for _, s := range f.segments {
		if s.stored || s.parted == s.filled || s.Start(f.size)+pg.LSN(s.parted) >= f.goal {
			continue
		}
		if s.pushing && !f.urgent && now.Sub(s.begun) < f.interval {
			continue
		}
		facts, ok := s.follower.Facts()
		if !ok {
			continue
		}
		s.parting, f.parting = true, true
		return job{segment: s, part: true, from: s.begin(), to: s.filled, facts: facts, begun: now}, true
	}
	return job{}, false
}

// begin is where the next part begins. It takes the part before it in, and replaces it, as long as that one is no longer than itself and both together have
// at most largest bytes: so parts get shorter towards the end, each byte is stored again only in a part at least twice as long, and who reads a segment of
// 16 MiB, however slowly it filled, reads little more than 64 of them.
func (s *segment) begin() int {
	from := s.parted
	for i := len(s.begins) - 1; i >= 0; i-- {
		before := s.begins[i]
		if from-before > s.filled-from || s.filled-before > largest {
			break
		}
		from = before
	}
	return from
}

// part takes in that a part is durable.
func (s *segment) part(j job) {
	for n := len(s.begins); n > 0 && s.begins[n-1] >= j.from; n-- {
		s.begins = s.begins[:n-1]
	}
	s.begins, s.parted = append(s.begins, j.from), j.to
}

// done takes in how a job ended.
func (f *flow) done(now time.Time, j job, err error) {
	s := j.segment
	if j.part {
		s.parting, f.parting = false, false
	} else {
		s.pushing = false
		f.pushing--
	}
	if err != nil {
		if f.failures == 0 {
			f.failed = now
		}
		f.lastErr = err
		f.until = now.Add(min(firstPause<<min(f.failures, 4), longestPause))
		f.failures++
		return
	}
	f.failures, f.until, f.lastErr = 0, time.Time{}, nil
	if j.part {
		s.part(j)
	} else {
		s.stored = true
	}
	f.release()
}

// release gives up the memory of what is stored. The newest segment stays until the next one's first page is there: a record may run over into it.
func (f *flow) release() {
	for len(f.segments) > 1 {
		s := f.segments[0]
		if !s.stored || s.parting || f.segments[1].filled < headerBytes {
			return
		}
		f.base = s.End(f.size)
		f.segments = f.segments[1:]
		f.recycle(s)
	}
}

// durable is up to where all is stored, be it in parts.
func (f *flow) durable() pg.LSN {
	at := f.base
	for _, s := range f.segments {
		if s.stored {
			at = s.End(f.size)
			continue
		}
		at = s.Start(f.size) + pg.LSN(s.parted)
		if s.parted < len(s.data) {
			break
		}
	}
	return at
}

// whole is up to where all is stored in whole segments.
func (f *flow) whole() pg.LSN {
	at := f.base
	for _, s := range f.segments {
		if !s.stored {
			break
		}
		at = s.End(f.size)
	}
	return at
}

// settled says whether nothing more is to be stored: all that was received is durable, and what is finished is stored as a whole.
func (f *flow) settled() bool {
	for _, s := range f.segments {
		if s.parting || s.pushing || !s.stored && (s.filled == len(s.data) || s.parted < s.filled && s.filled >= headerBytes) {
			return false
		}
	}
	return true
}

// next is the segment to go on with in another stream: the first that is not stored as a whole.
func (f *flow) next() pg.Segment {
	for _, s := range f.segments {
		if !s.stored {
			return s.Segment
		}
	}
	return f.last().Next()
}

// wake is when jobs has something to say again if nothing happens before; zero: never.
func (f *flow) wake(now time.Time) time.Time {
	at := f.due
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if now.Before(f.until) {
		return f.until
	}
	for _, s := range f.segments {
		if s.pushing && s.parted < s.filled && s.begun.Add(f.interval).After(now) {
			earlier(s.begun.Add(f.interval))
		}
	}
	return at
}
