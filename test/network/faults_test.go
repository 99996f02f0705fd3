package network

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/s3test"
)

// hangs is longer than anything here takes.
const hangs = 80 * time.Second

// hang kills a process that does not end.
func hang(p *os.Process) *time.Timer { return time.AfterFunc(hangs, func() { _ = p.Kill() }) }

// mode is a kind of bad network.
type mode struct {
	name    string
	retry   string // --retry-time
	lasting bool   // it gets no better, and no command can end well
	silent  bool   // nothing fails, so nothing is tried again
	lock    bool   // the objects are locked, and the server says "denied" of a key that is taken
	cause   string // regular expression: what an outage is said to be
	make    func(t *testing.T, w *world) way
}

// way is a way to the storage on such a network.
type way struct {
	addr  string
	begin func() // before each command
	mend  func() // once the command tries something again; may be nil
}

// slow is a network on which everything takes long.
func slow(toxics ...s3test.Toxic) func(*testing.T, *world) way {
	return func(_ *testing.T, w *world) way {
		line := w.network.Line(w.storage.Addr)
		return way{addr: line.Addr, begin: func() { line.Set(toxics...) }}
	}
}

// cutAt is less than what the bodies of large objects have, and more than all else.
const cutAt = 300_000

// cut is a network on which connections break in the middle of a body.
func cut(mended bool) func(*testing.T, *world) way {
	return func(_ *testing.T, w *world) way {
		line := w.network.Line(w.storage.Addr)
		c := way{addr: line.Addr, begin: func() { line.Set(s3test.Toxic{Cut: cutAt}, s3test.Toxic{Answers: true, Cut: cutAt}) }}
		if mended {
			c.mend = func() { line.Set() }
		}
		return c
	}
}

// fronted is a network with a front that decides about requests.
func fronted(decide func(s3test.Request) s3test.Answer, check func(t *testing.T, c s3test.Counts)) func(*testing.T, *world) way {
	return func(t *testing.T, w *world) way {
		front := s3test.NewFront(t, w.storage.Addr)
		c := way{addr: front.Addr}
		c.begin = func() {
			if check != nil && front.Counts().All > 0 {
				check(t, front.Counts())
			}
			front.Set(decide)
		}
		return c
	}
}

// isLarge says whether a request is about the objects that hold data.
func isLarge(r s3test.Request) bool {
	return strings.Contains(r.Key, "/packs/") || strings.Contains(r.Key, "/wal/") && (r.Method == "PUT" || r.Method == "GET" && !strings.HasSuffix(r.Key, "/"))
}

// storm answers 503 to the first requests, and then to one now and then.
func storm(retryAfter int) func(s3test.Request) s3test.Answer {
	return func(r s3test.Request) s3test.Answer {
		if r.N <= 2 || r.N%30 == 5 {
			return s3test.Answer{Busy: true, RetryAfter: retryAfter}
		}
		return s3test.Answer{}
	}
}

// everyFirst is the first time that an object is put, and one in three of all that is not a put. Sessions are put once, and are in it as others are.
func everyFirst() func(s3test.Request) bool {
	seen := map[string]bool{}
	return func(r s3test.Request) bool {
		if r.Method != "PUT" || strings.Contains(r.Key, "/sessions/") {
			return r.N%3 == 1
		}
		again := seen[r.Key]
		seen[r.Key] = true
		return !again
	}
}

// modes are the rows of the table. Broken connections end in one of several errors, as it happens.
func modes() []mode {
	const broken = `EOF|connection reset|broken pipe|in the middle of|closed`
	early := func(t *testing.T, c s3test.Counts) {
		if c.Early > 0 {
			t.Errorf("of %d requests, %d came again before the time that the storage asked for", c.All, c.Early)
		}
	}
	lose := func(on func(s3test.Request) bool) func(s3test.Request) s3test.Answer {
		return func(r s3test.Request) s3test.Answer { return s3test.Answer{Lose: on(r)} }
	}
	return []mode{
		{name: "latency", retry: "1m", silent: true, make: slow(s3test.Toxic{Answers: true, Latency: 200 * time.Millisecond})},
		{name: "narrow", retry: "1m", silent: true, make: slow(s3test.Toxic{Rate: 1250}, s3test.Toxic{Answers: true, Rate: 1250})},
		{name: "cut", retry: "1m", make: cut(true)},
		{name: "cut-lasting", retry: "1s", lasting: true, cause: broken, make: cut(false)},
		{name: "lost", retry: "1m", make: fronted(lose(func(r s3test.Request) bool { return r.N%3 == 1 }), nil)},
		{name: "lost-locked", retry: "1m", lock: true, make: fronted(lose(everyFirst()), nil)},
		{name: "lost-lasting", retry: "1s", lasting: true, cause: broken, make: fronted(lose(isLarge), nil)},
		{name: "storm", retry: "1m", make: fronted(storm(0), nil)},
		{name: "storm-retry-after", retry: "1m", make: fronted(storm(1), early)},
		{name: "storm-lasting", retry: "1s", lasting: true, cause: `SlowDown.*503`, make: fronted(func(r s3test.Request) s3test.Answer {
			return s3test.Answer{Busy: isLarge(r)}
		}, nil)},
	}
}
