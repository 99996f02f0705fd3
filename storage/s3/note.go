package s3

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// maxAfter is the longest time to be left alone that is believed of a server.
const maxAfter = 24 * time.Hour

// note is what the last answer to a call's requests said besides: the library keeps code and text of a refusal, and drops its headers. It travels
// in the context of the call, from the transport that sees the answer to the error that is made of it.
type note struct{ after atomic.Int64 }

type noteKey struct{}

func withNote(ctx context.Context) context.Context {
	return context.WithValue(ctx, noteKey{}, &note{})
}

// take notes how long a server that has too much to do wants to be left alone.
func (n *note) take(resp *http.Response) {
	after := time.Duration(0)
	if resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusTooManyRequests {
		after = retryAfter(resp.Header, time.Now())
	}
	n.after.Store(int64(after))
}

// noted is the note of a call, nil where there is none.
func noted(ctx context.Context) *note {
	n, _ := ctx.Value(noteKey{}).(*note)
	return n
}

// retryAfter reads the header Retry-After: a number of seconds, or a date, which is compared with the server's own idea of the time if it
// tells one. 0: it is not there, is over, or says nothing.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 63); err == nil {
		return time.Duration(min(seconds, uint64(maxAfter/time.Second))) * time.Second
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	if server, err := http.ParseTime(h.Get("Date")); err == nil {
		now = server
	}
	return min(max(date.Sub(now), 0), maxAfter)
}
