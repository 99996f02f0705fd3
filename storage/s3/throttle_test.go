package s3_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/retry"
	"github.com/pgtrove/pgtrove/storage/s3"
)

func TestAServerSaysForHowLongItWantsToBeLeftAlone(t *testing.T) {
	date := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) // the server's clock need not be ours
	at := func(d time.Duration) string { return date.Add(d).Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		status int
		header string
		want   time.Duration
		ok     bool
	}{
		"in seconds":             {503, "7", 7 * time.Second, true},
		"as a date":              {503, at(90 * time.Second), 90 * time.Second, true},
		"too many requests":      {429, "3", 3 * time.Second, true},
		"not at all":             {503, "", 0, true},
		"in words":               {503, "a while", 0, true},
		"less than nothing":      {503, "-5", 0, true},
		"a date that is over":    {503, at(-time.Minute), 0, true},
		"for ever":               {503, "9999999999999999999999", 0, true},
		"nearly for ever":        {503, "9223372036854775807", 24 * time.Hour, true},
		"with a refusal of ours": {403, "7", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := answering(t, s3.Options{}, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Date", date.Format(http.TimeFormat))
				w.Header().Set("Retry-After", c.header)
				w.WriteHeader(c.status)
				fmt.Fprint(w, refusal("Busy"))
			})
			all := everyVerb(t, s)
			all["lock"] = s.Lock(t.Context(), "k", time.Now().Add(time.Hour))
			for verb, err := range all {
				if after, ok := s3.IsThrottled(err); ok != c.ok || after != c.want {
					t.Errorf("%s: %s, %v of %v", verb, after, ok, err)
				}
			}
		})
	}
}

func TestAThrottledCallIsRepeatedNoSoonerThanTheServerWants(t *testing.T) {
	var last time.Time
	s, requests := answering(t, s3.Options{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if last.IsZero() {
			last = time.Now()
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, refusal("SlowDown"))
		}
	})
	if err := retry.New(s, retry.Options{Throttled: s3.IsThrottled}).Put(t.Context(), "k", []byte("x")); err != nil || requests.Load() != 2 {
		t.Fatalf("%v after %d requests", err, requests.Load())
	}
	if waited := time.Since(last); waited < 2*time.Second {
		t.Errorf("repeated after %s", waited)
	}
	var paused time.Duration
	last = time.Time{}
	short := retry.New(s, retry.Options{Throttled: s3.IsThrottled, Total: 50 * time.Millisecond, Retrying: func(f retry.Failure) { paused = f.Pause }})
	if _, err := short.Get(t.Context(), "k", storage.Range{}, nil); err != nil || paused == 0 || paused > 50*time.Millisecond {
		t.Errorf("a pause of %s, %v", paused, err)
	}
}
