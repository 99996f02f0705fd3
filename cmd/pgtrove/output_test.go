package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestSizesForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 1<<20 - 1: "1.0 MiB",
		5 << 30: "5.0 GiB", 1 << 50: "1.0 PiB", 3 << 60: "3072.0 PiB",
	} {
		if got := showBytes(n); got != want {
			t.Errorf("%d bytes are %q, want %q", n, got, want)
		}
	}
}

func TestSpansForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 1500 * time.Millisecond: "1.5 s", 42 * time.Second: "42 s", 125 * time.Second: "2 min 5 s",
		3*time.Hour + 7*time.Minute: "3 h 7 min", 75 * time.Hour: "3 d 3 h", -time.Second: "0.0 s",
	} {
		if got := showDuration(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestSharesNeverRoundUpToAll(t *testing.T) {
	for _, c := range []struct {
		part, whole int64
		want        string
	}{{0, 0, "100 %"}, {0, 10, "0 %"}, {1, 1000, "0.1 %"}, {1, 2, "50 %"}, {99999, 100000, "99.9 %"}, {7, 7, "100 %"}} {
		if got := showShare(c.part, c.whole); got != c.want {
			t.Errorf("%d of %d is %q, want %q", c.part, c.whole, got, c.want)
		}
	}
}

func TestTableAlignsColumns(t *testing.T) {
	tab := newTable("NAME", ">SIZE", "NOTE")
	tab.add("é", "1", "x")
	tab.add("longer", "12345", "")
	want := "NAME     SIZE  NOTE\né           1  x\nlonger  12345\n"
	if got := tab.String(); got != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

func TestJSONTimesAreUTCToTheMicrosecond(t *testing.T) {
	zone := time.FixedZone("here", 2*3600)
	b, err := json.Marshal([]jsonTime{jsonTime(time.Date(2026, 5, 4, 12, 0, 1, 123456789, zone)), {}})
	if err != nil || string(b) != `["2026-05-04T10:00:01.123456Z",null]` {
		t.Errorf("%s, %v", b, err)
	}
}

// lockedBuffer is a buffer that a goroutine of the code under test writes to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestProgressWithoutTerminalIsPlainLines(t *testing.T) {
	var text lockedBuffer
	o := &output{stderr: &text}
	p := &progress{title: "backup", reused: func() int64 { return 512 << 10 }}
	p.total.Store(4 << 20)
	p.rate.begin(time.Now().Add(-time.Second))
	p.add(1 << 20)
	p.stop = p.tell(o, time.Millisecond)
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(text.String(), "\n"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no line in 10 s")
		}
	}
	p.close()
	p.close()
	after := text.String()
	if strings.ContainsAny(after, "\x1b\r") {
		t.Errorf("control characters in %q", after)
	}
	line, _, _ := strings.Cut(after, "\n")
	for _, want := range []string{"backup: 1.0 MiB of 4.0 MiB, 25 %", "/s", "50 % deduplicated", " left"} {
		if !strings.Contains(line, want) {
			t.Errorf("line %q does not say %q", line, want)
		}
	}
	time.Sleep(5 * time.Millisecond)
	if text.String() != after {
		t.Error("lines after close")
	}
}

func TestProgressOnATerminalIsABarThatGoesAway(t *testing.T) {
	var text lockedBuffer
	o := &output{stderr: &text, terminal: true}
	p := o.startProgress("restore", 100, nil)
	p.add(100)
	time.Sleep(3 * drawEvery)
	o.info("a line between")
	time.Sleep(2 * drawEvery)
	o.info("the last line")
	p.close()
	o.info("done")
	if !strings.HasSuffix(text.String(), "done\n") {
		t.Errorf("the line after the bar is missing: %q", text.String())
	}
	for _, want := range []string{"a line between\n", "the last line\n", "100 B of 100 B, 100 %"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing: %q", want, text.String())
		}
	}
}

func TestQuietProgressSaysNothing(t *testing.T) {
	var text lockedBuffer
	o := &output{stderr: &text, terminal: true, quiet: true}
	p := o.startProgress("restore", 100, nil)
	p.add(100)
	time.Sleep(2 * drawEvery)
	p.close()
	if text.String() != "" {
		t.Errorf("said %q", text.String())
	}
}

func TestRateFollowsTheLastSeconds(t *testing.T) {
	var r rate
	start := time.Now()
	r.begin(start)
	for i := 1; i <= 60; i++ { // 100 bytes a second, and then nothing for half a minute
		r.at(start.Add(time.Duration(i)*time.Second), int64(min(i, 30)*100))
	}
	if got := r.at(start.Add(60*time.Second), 3000); got != 0 {
		t.Errorf("%v bytes a second after a standstill", got)
	}
	if got := r.at(start.Add(61*time.Second), 4600); got < 90 || got > 120 {
		t.Errorf("%v bytes a second over 15 s with 1600 bytes", got)
	}
}
