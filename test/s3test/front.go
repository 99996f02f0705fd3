package s3test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Front stands before an S3 server as a load balancer does, knows one request from another, and answers some of them in the server's place. Use
// NewFront.
type Front struct {
	Addr string // host:port of 127.0.0.1

	target    string
	transport *http.Transport
	mu        sync.Mutex
	decide    func(Request) Answer
	n         int
	counts    Counts
	pauses    map[string]time.Time // until when a request is not to come again
}

// Request is one that the server has not seen yet.
type Request struct {
	Method string
	Key    string // bucket/key; of a listing, bucket/prefix
	N      int    // the how-manieth since Set, from 1
}

// Answer is what becomes of a request. The zero value is the server's.
type Answer struct {
	Lose bool // the server does its work, and the connection ends in place of its answer
	Busy bool // the answer is 503, and the server hears nothing
	// RetryAfter, with Busy, asks the client not to come again for so long, in seconds.
	RetryAfter int
}

// Counts of requests since Set.
type Counts struct {
	All, Lost, Busy int
	Early           int // that came again before the time that RetryAfter gave
}

// NewFront starts a front of the server at target (host:port, without TLS) that ends with the test.
func NewFront(t testing.TB, target string) *Front {
	t.Helper()
	f := &Front{target: target, transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}, pauses: map[string]time.Time{}}
	server := httptest.NewServer(f)
	f.Addr = strings.TrimPrefix(server.URL, "http://")
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		f.transport.CloseIdleConnections()
	})
	return f
}

// Set changes what decides, and counts from 0. decide is asked once for each request, one at a time; nil lets all pass.
func (f *Front) Set(decide func(Request) Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decide, f.n, f.counts = decide, 0, Counts{}
	clear(f.pauses)
}

// Counts is how often what happened.
func (f *Front) Counts() Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

func (f *Front) answer(r *http.Request) Answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	f.counts.All++
	key := strings.TrimPrefix(r.URL.Path, "/")
	if prefix, ok := r.URL.Query()["prefix"]; ok {
		key = strings.TrimSuffix(key, "/") + "/" + prefix[0]
	}
	name := r.Method + " " + key
	if time.Now().Before(f.pauses[name]) {
		f.counts.Early++
	}
	delete(f.pauses, name)
	if f.decide == nil {
		return Answer{}
	}
	a := f.decide(Request{r.Method, key, f.n})
	switch {
	case a.Lose:
		f.counts.Lost++
	case a.Busy:
		f.counts.Busy++
		f.pauses[name] = time.Now().Add(time.Duration(a.RetryAfter) * time.Second)
	}
	return a
}

const busy = `<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message><RequestId>1</RequestId></Error>`

// ServeHTTP implements http.Handler.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := f.answer(r)
	if a.Busy {
		_, _ = io.Copy(io.Discard, r.Body) // so that the client reads the answer, and does not stumble over a closed connection first
		if a.RetryAfter > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(a.RetryAfter))
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, busy) // a client that has gone
		return
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", f.target, "" // its Host stays: it is signed
	answer, err := f.transport.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler) // as if this were a wire
	}
	defer answer.Body.Close()
	if a.Lose {
		_, _ = io.Copy(io.Discard, answer.Body)
		panic(http.ErrAbortHandler)
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	if _, err := io.Copy(w, answer.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}
