package walreceiver

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/walarchive"
)

const mib = 1 << 20

// readsAnything is a Follower that knows a segment once its first page's header is there.
type readsAnything struct{ to int }

func (r *readsAnything) Extend(to int) error {
	r.to = to
	return nil
}

func (r *readsAnything) Facts() (walarchive.Facts, bool) {
	return walarchive.Facts{}, r.to >= headerBytes
}

// tank is a flow with a clock and a storage that keeps what jobs store.
type tank struct {
	*flow
	t      *testing.T
	now    time.Time
	stream []byte // from the first segment's first byte on
	parts  map[string]map[string][]byte
	whole  map[string][]byte
	noise  *rand.ChaCha8
	sure   pg.LSN // what was checked before
}

func newTank(t *testing.T, interval time.Duration) *tank {
	f := &flow{size: mib, interval: interval, follow: func(string, []byte, []byte) Follower { return &readsAnything{} }}
	f.begin(pg.Segment{Timeline: 1, Number: 5})
	return &tank{flow: f, t: t, now: time.Unix(1e9, 0), parts: map[string]map[string][]byte{}, whole: map[string][]byte{}, noise: rand.NewChaCha8([32]byte{})}
}

// receive takes in so many bytes, and says how many found room.
func (k *tank) receive(bytes int) int {
	k.t.Helper()
	data := make([]byte, bytes)
	_, _ = k.noise.Read(data)
	rest, err := k.take(k.now, k.received(), data)
	if err != nil {
		k.t.Fatal(err)
	}
	data = data[:bytes-len(rest)]
	k.stream = append(k.stream, data...)
	return len(data)
}

// store does a job.
func (k *tank) store(j job) {
	s := j.segment
	if !j.part {
		k.whole[s.name] = bytes.Clone(s.data)
	} else {
		if k.parts[s.name] == nil {
			k.parts[s.name] = map[string][]byte{}
		}
		k.parts[s.name][s.receiver] = append(k.parts[s.name][s.receiver][:j.from:j.from], s.data[j.from:j.to]...)
	}
	k.done(k.now, j, nil)
}

// check makes sure that all up to where it claims to be durable is stored, byte for byte.
func (k *tank) check() {
	k.t.Helper()
	if k.durable() == k.sure {
		return
	}
	first := pg.Segment{Timeline: 1, Number: 5}
	left := int(k.durable() - first.Start(mib))
	for s := first; left > 0; s = s.Next() {
		n := min(left, mib)
		left -= n
		if s.End(mib) <= k.sure {
			continue
		}
		want := k.stream[int(s.Number-first.Number)*mib:][:n]
		name := s.Name(mib)
		ok := len(k.whole[name]) == mib && bytes.Equal(k.whole[name][:n], want)
		for _, p := range k.parts[name] {
			ok = ok || len(p) >= n && bytes.Equal(p[:n], want)
		}
		if !ok {
			k.t.Fatalf("%s is said to be durable up to %d, and is not stored so", name, n)
		}
	}
	k.sure = k.durable()
}

func TestAPartComesAfterTheIntervalAndHoldsAllThatCame(t *testing.T) {
	k := newTank(t, 5*time.Second)
	k.receive(1000)
	if jobs := k.jobs(k.now); len(jobs) != 0 {
		t.Fatalf("%d jobs at once", len(jobs))
	}
	k.now = k.now.Add(4 * time.Second)
	k.receive(500)
	if at := k.wake(k.now); !at.Equal(k.now.Add(time.Second)) {
		t.Errorf("it wants to be called at %s", at)
	}
	k.now = k.now.Add(time.Second)
	jobs := k.jobs(k.now)
	if len(jobs) != 1 || !jobs[0].part || jobs[0].from != 0 || jobs[0].to != 1500 {
		t.Fatalf("%+v", jobs)
	}
	if k.durable() != k.base {
		t.Error("it is durable before it is stored")
	}
	k.store(jobs[0])
	k.check()
	if k.durable() != k.received() || !k.settled() {
		t.Errorf("durable up to %s of %s", k.durable(), k.received())
	}
	k.now = k.now.Add(time.Hour)
	if jobs := k.jobs(k.now); len(jobs) != 0 {
		t.Errorf("%d jobs though nothing came", len(jobs))
	}
}

func TestWhoIsWaitedForStoresWhatCameWhileThePartBeforeWasStored(t *testing.T) {
	k := newTank(t, time.Hour)
	k.urgent = true
	k.receive(100)
	one := k.jobs(k.now)
	k.receive(100)
	k.receive(100)
	if more := k.jobs(k.now); len(one) != 1 || len(more) != 0 {
		t.Fatalf("%d and %d parts at a time", len(one), len(more))
	}
	k.store(one[0])
	two := k.jobs(k.now)
	if len(two) != 1 || two[0].from != 0 || two[0].to != 300 {
		t.Fatalf("%+v", two)
	}
	k.store(two[0])
	k.check()
}

// TestSmallPartsAreStoredAgainInLargerOnes: however slowly a segment fills, few of its parts have to be read, and not much more is stored than came.
func TestSmallPartsAreStoredAgainInLargerOnes(t *testing.T) {
	k := newTank(t, time.Hour)
	k.urgent = true
	parts, stored := 0, 0
	for k.received() < k.base+mib-100 {
		k.receive(100)
		for _, j := range k.jobs(k.now) {
			parts++
			stored += j.to - j.from
			k.store(j)
		}
		if k.durable() != k.received() {
			t.Fatal("it is behind")
		}
	}
	k.check()
	// 100 bytes are doubled eleven times before a part is too large to be taken in.
	if n := len(k.segments[0].begins); n > mib/largest*2+12 {
		t.Errorf("%d of %d parts are needed", n, parts)
	}
	if stored > 8*mib {
		t.Errorf("%d bytes stored for %d that came", stored, mib)
	}
}

func TestFinishedSegmentsAreStoredWholeWhileMoreComes(t *testing.T) {
	k := newTank(t, time.Second)
	k.receive(mib + 5000)
	jobs := k.jobs(k.now)
	if len(jobs) != 1 || jobs[0].part || jobs[0].to != mib {
		t.Fatalf("%+v", jobs)
	}
	k.now = k.now.Add(time.Second / 2)
	if more := k.jobs(k.now); len(more) != 0 {
		t.Fatalf("%+v: the segment is on its way", more)
	}
	k.store(jobs[0])
	if k.durable() != k.base || k.whole[jobs[0].segment.name] == nil || len(k.segments) != 1 {
		t.Error("the finished segment is still in memory, or not durable")
	}
	k.check()
}

// TestASlowSegmentGetsItsPartToo: where the whole of it takes long, its end does not wait.
func TestASlowSegmentGetsItsPartToo(t *testing.T) {
	k := newTank(t, time.Second)
	k.receive(mib + 5000)
	whole := k.jobs(k.now)
	k.now = k.now.Add(time.Second)
	for range 2 {
		jobs := k.jobs(k.now)
		if len(jobs) != 1 || !jobs[0].part {
			t.Fatalf("%+v", jobs)
		}
		k.store(jobs[0])
	}
	k.check()
	if k.durable() != k.received() || k.base == k.received() {
		t.Errorf("durable up to %s of %s", k.durable(), k.received())
	}
	if got := k.flow.whole(); got != k.base {
		t.Errorf("whole up to %s, and nothing is", got)
	}
	if k.settled() {
		t.Error("it is settled, and the segment is not whole yet")
	}
	k.store(whole[0])
	if got := k.flow.whole(); got != k.base || k.segments[0].Number != 6 || !k.settled() {
		t.Errorf("whole up to %s", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	k := newTank(t, time.Second)
	got := k.receive(100 * mib)
	if got != k.bound()*mib || len(k.segments) != k.bound() {
		t.Fatalf("%d bytes found room, in %d segments", got, len(k.segments))
	}
	for len(k.segments) > 1 || !k.settled() {
		k.now = k.now.Add(time.Minute)
		jobs := k.jobs(k.now)
		if len(jobs) == 0 {
			t.Fatalf("nothing to do with %d segments", len(k.segments))
		}
		for _, j := range jobs {
			k.store(j)
		}
		if len(k.stream) == got {
			k.receive(100)
		}
	}
	k.check()
	if len(k.spare) >= k.bound() {
		t.Errorf("%d spare segments", len(k.spare))
	}
	if n := k.next(); n.Number != 5+uint64(len(k.stream)/mib) {
		t.Errorf("the next stream would begin with segment %d", n.Number)
	}
}

func TestAfterAFailureItPausesAndThenStoresAll(t *testing.T) {
	k := newTank(t, time.Second)
	k.urgent = true
	broken := errors.New("no storage")
	pauses := []time.Duration{}
	for range 7 {
		k.receive(1000)
		jobs := k.jobs(k.now)
		if len(jobs) != 1 {
			t.Fatalf("%d jobs", len(jobs))
		}
		k.done(k.now, jobs[0], broken)
		if k.durable() != k.base || len(k.jobs(k.now)) != 0 {
			t.Fatal("a failure counts as success, or is tried again at once")
		}
		at := k.wake(k.now)
		pauses = append(pauses, at.Sub(k.now))
		k.now = at
	}
	if pauses[0] != time.Second || pauses[6] != 15*time.Second {
		t.Errorf("pauses %v", pauses)
	}
	jobs := k.jobs(k.now)
	if len(jobs) != 1 || jobs[0].to != 7000 {
		t.Fatalf("%+v", jobs)
	}
	k.store(jobs[0])
	k.check()
	if k.failures != 0 || k.durable() != k.received() {
		t.Error("it did not recover")
	}
}

func TestAGapInTheStreamIsNoticed(t *testing.T) {
	k := newTank(t, time.Second)
	k.receive(100)
	if _, err := k.take(k.now, k.received()+1, []byte{1}); !errors.Is(err, errStream) {
		t.Errorf("a gap: %v", err)
	}
	if _, err := k.take(k.now, k.received()-1, []byte{1}); !errors.Is(err, errStream) {
		t.Errorf("the same again: %v", err)
	}
}

// TestAnyOrderOfEventsKeepsItsWord does everything at random. What is said to be durable is stored, and in the end all is.
func TestAnyOrderOfEventsKeepsItsWord(t *testing.T) {
	for range 30 {
		k := newTank(t, 3*time.Second)
		var running []job
		finish := func(fail bool) {
			if len(running) == 0 {
				return
			}
			i := rand.IntN(len(running))
			j := running[i]
			running = append(running[:i], running[i+1:]...)
			if fail {
				k.done(k.now, j, errors.New("no"))
				return
			}
			k.store(j)
		}
		for range 300 {
			switch rand.IntN(6) {
			case 0, 1:
				k.receive(rand.IntN(300_000))
			case 2:
				k.now = k.now.Add(time.Duration(rand.IntN(5000)) * time.Millisecond)
			case 3:
				finish(rand.IntN(4) == 0)
			case 4:
				k.urgent = !k.urgent
			case 5:
				running = append(running, k.jobs(k.now)...)
			}
			k.check()
			if k.flow.whole() > k.durable() || k.durable() > k.received() {
				t.Fatalf("whole %s, durable %s, received %s", k.flow.whole(), k.durable(), k.received())
			}
		}
		for !k.settled() || len(running) > 0 {
			k.now = k.now.Add(20 * time.Second)
			k.urgent = true
			k.hurry()
			running = append(running, k.jobs(k.now)...)
			if len(running) == 0 {
				t.Fatalf("nothing to do, and it is durable up to %s of %s only", k.durable(), k.received())
			}
			finish(false)
		}
		k.check()
		if left := k.received() - k.durable(); left >= headerBytes {
			t.Fatalf("%d bytes are left", left)
		}
	}
}
