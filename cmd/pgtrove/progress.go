package main

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress counts what a long command has done and shows it while it runs: as a bar on a terminal, as a line now and
// then elsewhere, not at all with -q. Add may be called from several goroutines.
type progress struct {
	title string
	total atomic.Int64 // bytes to do; 0: unknown
	done  atomic.Int64
	// reused says how many of the done bytes the repository had already, negative while that is not known; nil where
	// it means nothing.
	reused func() int64
	rate   rate
	stop   func()
}

// lineEvery is how often plain progress says something, drawEvery how often a bar is drawn.
const (
	lineEvery = 10 * time.Second
	drawEvery = 200 * time.Millisecond
)

// startProgress shows progress until close is called. It starts at most one goroutine, which close ends.
func (o *output) startProgress(title string, total int64, reused func() int64) *progress {
	p := &progress{title: title, reused: reused, stop: func() {}}
	p.total.Store(total)
	p.rate.begin(time.Now())
	switch {
	case o.quiet:
	case o.terminal:
		p.stop = p.draw(o)
	default:
		p.stop = p.tell(o, lineEvery)
	}
	return p
}

func (p *progress) add(n int64) { p.done.Add(n) }

// close takes the bar away and waits for whatever showed it. It may be called twice.
func (p *progress) close() { p.stop() }

// draw shows a bar. The bar is removed at the end: the command's summary says how it went.
func (p *progress) draw(o *output) (stop func()) {
	container := mpb.New(mpb.WithOutput(o.stderr), mpb.WithRefreshRate(drawEvery), mpb.WithAutoRefresh())
	bar := container.New(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.BarFillerTrim(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return p.title + " " })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + p.status(time.Now()) })),
	)
	o.drawAbove(container)
	ticks, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(drawEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				// One more than the total, until the end: the library takes a full bar for finished.
				bar.SetTotal(p.total.Load()+1, false)
				bar.SetCurrent(min(p.done.Load(), p.total.Load()))
			case <-ticks:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(ticks)
		<-ended
		bar.Abort(true)
		container.Wait()
		o.drawAbove(nil)
	})
}

// tell writes a line every so often.
func (p *progress) tell(o *output, every time.Duration) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case now := <-t.C:
				o.info("%s: %s", p.title, p.status(now))
			case <-quit:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(quit)
		<-ended
	})
}

// status is "1.2 GiB of 3.0 GiB, 40 %, 210.0 MiB/s, 93 % deduplicated, 9 s left".
func (p *progress) status(now time.Time) string {
	done, total := p.done.Load(), p.total.Load()
	speed := p.rate.at(now, done)
	var parts []string
	if total > 0 {
		total = max(total, done) // files grow while they are read
		parts = append(parts, showBytes(done)+" of "+showBytes(total), showShare(done, total))
	} else {
		parts = append(parts, showBytes(done))
	}
	parts = append(parts, showBytes(int64(speed))+"/s")
	if p.reused != nil && done > 0 {
		if n := p.reused(); n >= 0 {
			parts = append(parts, showShare(n, done)+" deduplicated")
		}
	}
	if total > done && speed >= 1 {
		left := time.Duration(float64(total-done) / speed * float64(time.Second))
		parts = append(parts, showLeft(left)+" left")
	}
	return strings.Join(parts, ", ")
}

// rate is the speed over the last rateSpan, so that it follows what happens now.
type rate struct {
	mu      sync.Mutex
	samples []sample // oldest first
}

type sample struct {
	at   time.Time
	done int64
}

const rateSpan = 15 * time.Second

func (r *rate) begin(now time.Time) { r.samples = []sample{{at: now}} }

// at takes a sample and returns bytes per second.
func (r *rate) at(now time.Time, done int64) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.samples) > 1 && now.Sub(r.samples[1].at) >= rateSpan {
		r.samples = r.samples[1:]
	}
	first := r.samples[0]
	if last := r.samples[len(r.samples)-1]; now.Sub(last.at) >= drawEvery {
		r.samples = append(r.samples, sample{now, done})
	}
	elapsed := now.Sub(first.at).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return float64(done-first.done) / elapsed
}

// summaryRate is the rate over everything: "3.0 GiB in 14 s (215.0 MiB/s)".
func summaryRate(n int64, d time.Duration) string {
	s := fmt.Sprintf("%s in %s", showBytes(n), showDuration(d))
	if d > 0 {
		s += fmt.Sprintf(" (%s/s)", showBytes(int64(float64(n)/d.Seconds())))
	}
	return s
}
