package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/s3"
)

// answering is a store whose server answers each request with fn. What a real server never says is tested with it.
func answering(t *testing.T, o s3.Options, fn http.HandlerFunc) (*s3.Store, *atomic.Int64) {
	t.Helper()
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		fn(w, r)
	}))
	t.Cleanup(server.Close)
	o.Endpoint, o.Location = server.URL, s3.Location{Bucket: "bucket", Prefix: "p"}
	o.Credentials = s3.Credentials{AccessKey: "id", SecretKey: "hunter2", SessionToken: "hunter3"}
	return open(t, o), &requests
}

func refusal(code string) string {
	return `<?xml version="1.0"?><Error><Code>` + code + `</Code><Message>no</Message></Error>`
}

const page = `<html><body>nothing here</body></html>`

func TestAnswersHaveAClass(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		get    error
		put    error
		del    error // nil: it is well
	}{
		"absent":               {404, refusal("NoSuchKey"), storage.ErrNotExist, storage.ErrUnreachable, nil},
		"a proxy's page":       {404, page, storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"a proxy's silence":    {404, "", storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"another bucket":       {404, refusal("NoSuchBucket"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"another region":       {301, refusal("PermanentRedirect"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"taken":                {412, refusal("PreconditionFailed"), storage.ErrExist, storage.ErrExist, storage.ErrExist},
		"taken, in few words":  {412, "", storage.ErrExist, storage.ErrExist, storage.ErrExist},
		"forbidden":            {403, refusal("AccessDenied"), storage.ErrDenied, storage.ErrDenied, storage.ErrDenied},
		"forbidden by a proxy": {403, page, storage.ErrDenied, storage.ErrDenied, storage.ErrDenied},
		"an old token":         {400, refusal("ExpiredToken"), storage.ErrDenied, storage.ErrDenied, storage.ErrDenied},
		"a wrong clock":        {403, refusal("RequestTimeTooSkewed"), storage.ErrDenied, storage.ErrDenied, storage.ErrDenied},
		"full":                 {507, page, storage.ErrFull, storage.ErrFull, storage.ErrFull},
		"over the quota":       {403, refusal("QuotaExceeded"), storage.ErrFull, storage.ErrFull, storage.ErrFull},
		"too much":             {503, refusal("SlowDown"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"a broken gateway":     {502, page, storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"a stalled body":       {400, refusal("RequestTimeout"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"half of a body":       {400, refusal("IncompleteBody"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"a damaged body":       {400, refusal("BadDigest"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"one by its signature": {400, refusal("XAmzContentSHA256Mismatch"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"one, says MinIO":      {400, refusal("XAmzContentChecksumMismatch"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"too much, with 400":   {400, refusal("Throttling"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"too much for the KMS": {400, refusal("ThrottlingException"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"too much of requests": {400, refusal("RequestThrottled"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"too slow for a proxy": {408, page, storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"gone for a proxy":     {499, page, storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
		"a fault":              {500, refusal("InternalError"), storage.ErrUnreachable, storage.ErrUnreachable, storage.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			s, requests := answering(t, s3.Options{}, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			})
			_, get := s.Get(t.Context(), "k", storage.Range{}, nil)
			for verb, e := range map[string][2]error{
				"get": {get, c.get}, "put": {s.Put(t.Context(), "k", []byte("x")), c.put}, "delete": {s.Delete(t.Context(), "k"), c.del},
			} {
				if e[1] == nil && e[0] == nil {
					continue
				}
				wantErr(t, verb, e[0], e[1])
				if text := e[0].Error(); len(text) > 400 || strings.Contains(text, "\n") || strings.Contains(text, "hunter") {
					t.Errorf("%s: %q", verb, text)
				}
			}
			want := 3
			if errors.Is(c.del, storage.ErrDenied) {
				want = 4 // is it because of a lock?
			}
			if requests.Load() != int64(want) {
				t.Errorf("%d requests for three calls, want %d", requests.Load(), want)
			}
		})
	}
}

func TestAListingMustProveItself(t *testing.T) {
	const head = `<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>p/</Prefix>`
	entry := func(key string) string {
		return "<Contents><Key>" + key + "</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size></Contents>"
	}
	const end = `<IsTruncated>false</IsTruncated></ListBucketResult>`
	for name, c := range map[string]struct {
		body string
		good bool
		keys int
	}{
		"a listing":                        {head + entry("p/a") + entry("p/b") + end, true, 2},
		"an empty one":                     {head + end, true, 0},
		"one with another program's":       {head + entry("p/a b") + entry("p/b") + end, true, 1},
		"an empty answer":                  {"", false, 0},
		"a page":                           {page, false, 0},
		"an error":                         {refusal("InternalError"), false, 0},
		"another list":                     {`<ListAllMyBucketsResult><IsTruncated>false</IsTruncated></ListAllMyBucketsResult>`, false, 0},
		"half of one":                      {head + entry("p/a"), false, 0},
		"one that does not say its end":    {head + entry("p/a") + "</ListBucketResult>", false, 0},
		"one with more and no way to it":   {head + entry("p/a") + "<IsTruncated>true</IsTruncated></ListBucketResult>", false, 0},
		"the same page again":              {head + entry("p/a") + "<NextContinuationToken>x</NextContinuationToken><IsTruncated>true</IsTruncated></ListBucketResult>", false, 1},
		"one in disorder":                  {head + entry("p/b") + entry("p/a") + end, false, 1},
		"one that says a key twice":        {head + entry("p/a") + entry("p/a") + end, false, 1},
		"one of another part":              {head + entry("q/a") + end, false, 0},
		"one of what was not asked for, p": {head + entry("p/x") + entry("q") + end, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := answering(t, s3.Options{}, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, c.body) })
			n := 0
			err := s.List(t.Context(), "", func(storage.Info) error { n++; return nil })
			if c.good && err != nil || n != c.keys {
				t.Errorf("%d keys, %v", n, err)
			}
			if !c.good {
				wantErr(t, "List", err, storage.ErrUnreachable)
			}
		})
	}
}

func TestOnlyThePartThatWasAskedForIsTaken(t *testing.T) {
	const data = "0123456789"
	for name, c := range map[string]struct {
		header string // Content-Range of the answer
		body   string
		r      storage.Range
		want   string
		good   bool
	}{
		"a server without ranges": {"", data, storage.Range{Off: 3, Len: 2}, "34", true},
		"and from the end":        {"", data, storage.Range{Off: -3}, "789", true},
		"and past it":             {"", data, storage.Range{Off: 30}, "", true},
		"a part":                  {"bytes 3-4/10", "34", storage.Range{Off: 3, Len: 2}, "34", true},
		"more than asked for":     {"bytes 3-9/10", "3456789", storage.Range{Off: 3, Len: 2}, "34", true},
		"less than asked for":     {"bytes 3-3/10", "3", storage.Range{Off: 3, Len: 2}, "", false},
		"another part":            {"bytes 0-1/10", "01", storage.Range{Off: 3, Len: 2}, "", false},
		"the wrong end":           {"bytes 0-2/10", "012", storage.Range{Off: -3}, "", false},
		"a part of unknown size":  {"bytes 3-4/*", "34", storage.Range{Off: 3, Len: 2}, "", false},
		"a part for the whole":    {"bytes 0-4/10", "01234", storage.Range{}, "", false},
		"words":                   {"some", "34", storage.Range{Off: 3, Len: 2}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := answering(t, s3.Options{}, func(w http.ResponseWriter, _ *http.Request) {
				if c.header != "" {
					w.Header().Set("Content-Range", c.header)
					w.WriteHeader(http.StatusPartialContent)
				}
				fmt.Fprint(w, c.body)
			})
			got, err := s.Get(t.Context(), "k", c.r, []byte("+"))
			if c.good && (err != nil || string(got) != "+"+c.want) {
				t.Errorf("%q, %v", got, err)
			}
			if !c.good {
				wantErr(t, "Get", err, storage.ErrUnreachable)
			}
		})
	}
}

func TestTheEndOfAnObjectThatIsShorterIsAllOfIt(t *testing.T) {
	s, requests := answering(t, s3.Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			fmt.Fprint(w, refusal("InvalidRange"))
			return
		}
		fmt.Fprint(w, "0123")
	})
	got, err := s.Get(t.Context(), "k", storage.Range{Off: -10, Len: 2}, nil)
	if err != nil || string(got) != "01" || requests.Load() != 2 {
		t.Errorf("%q, %v after %d requests", got, err, requests.Load())
	}
	got, err = s.Get(t.Context(), "k", storage.Range{Off: 10}, []byte("+"))
	if err != nil || string(got) != "+" || requests.Load() != 3 {
		t.Errorf("%q, %v after %d requests", got, err, requests.Load())
	}
}

func TestAPutIsOneConditionalRequest(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 40<<20) // the library would send this in parts
	for name, c := range map[string]struct {
		o    s3.Options
		want map[string]string
	}{
		"plain": {s3.Options{}, map[string]string{"X-Amz-Checksum-Crc32c": "W5lZcw==", "Content-Md5": "", "X-Amz-Storage-Class": "",
			"X-Amz-Server-Side-Encryption": "", "X-Amz-Object-Lock-Mode": "", "X-Amz-Security-Token": "hunter3"}},
		"md5":           {s3.Options{Checksum: "md5"}, map[string]string{"X-Amz-Checksum-Crc32c": "", "Content-Md5": "l2fko803YKdbmT78ciUmyg=="}},
		"none":          {s3.Options{Checksum: "none"}, map[string]string{"X-Amz-Checksum-Crc32c": "", "Content-Md5": ""}},
		"storage class": {s3.Options{StorageClass: "STANDARD_IA"}, map[string]string{"X-Amz-Storage-Class": "STANDARD_IA"}},
		"SSE-S3":        {s3.Options{Encrypt: "s3"}, map[string]string{"X-Amz-Server-Side-Encryption": "AES256"}},
		"SSE-KMS": {s3.Options{Encrypt: "kms"}, map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms",
			"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": ""}},
		"SSE-KMS with a key": {s3.Options{Encrypt: "kms:arn:aws:kms:eu-west-1:1:key/2"}, map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms",
			"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "arn:aws:kms:eu-west-1:1:key/2"}},
		"object lock": {s3.Options{ObjectLock: time.Hour}, map[string]string{"X-Amz-Object-Lock-Mode": "GOVERNANCE"}},
	} {
		t.Run(name, func(t *testing.T) {
			var seen *http.Request
			var body []byte
			s, requests := answering(t, c.o, func(_ http.ResponseWriter, r *http.Request) {
				seen = r
				body, _ = io.ReadAll(r.Body)
			})
			if err := s.Put(t.Context(), "a/k", data); err != nil {
				t.Fatal(err)
			}
			if requests.Load() != 1 || seen.Method != http.MethodPut || seen.URL.String() != "/bucket/p/a/k" || !bytes.Equal(body, data) {
				t.Errorf("%d requests, %s %s with %d bytes", requests.Load(), seen.Method, seen.URL, len(body))
			}
			if seen.Header.Get("If-None-Match") != "*" || !strings.Contains(seen.Header.Get("Authorization"), "if-none-match") {
				t.Errorf("the condition is not there, or not signed: %v", seen.Header)
			}
			for k, v := range c.want {
				if got := seen.Header.Get(k); got != v {
					t.Errorf("%s: %q, want %q", k, got, v)
				}
			}
		})
	}
}

func TestAPutThatAnotherCallDisturbsIsRepeated(t *testing.T) {
	n := 0
	s, requests := answering(t, s3.Options{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if n++; n < 3 {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, refusal("ConditionalRequestConflict"))
		}
	})
	if err := s.Put(t.Context(), "k", []byte("x")); err != nil || requests.Load() != 3 {
		t.Errorf("after %d requests: %v", requests.Load(), err)
	}
}

func TestARepeatedCallIsTheCallersDecision(t *testing.T) {
	s, requests := answering(t, s3.Options{}, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	})
	for verb, err := range everyVerb(t, s) {
		if !errors.Is(err, storage.ErrUnreachable) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if requests.Load() != 5 {
		t.Errorf("%d requests for five calls", requests.Load())
	}
}

// TestALockThatIsRefusedForWantOfOneIsDenied, and what passes is tried again, which must not change a lock that could not be seen.
func TestALockThatIsRefusedForWantOfOneIsDenied(t *testing.T) {
	for name, c := range map[string]struct {
		head, status int
		body         string
		want         error
		requests     int
	}{
		"AWS, MinIO, versitygw, Ceph": {200, 400, refusal("InvalidRequest"), storage.ErrDenied, 2},
		"a bucket without settings":   {200, 404, refusal("ObjectLockConfigurationNotFoundError"), storage.ErrDenied, 2},
		"a server without locks":      {200, 501, refusal("NotImplemented"), storage.ErrDenied, 2},
		"one without the method":      {200, 405, refusal("MethodNotAllowed"), storage.ErrDenied, 2},
		"no right":                    {403, 403, refusal("AccessDenied"), storage.ErrDenied, 2},
		"no object":                   {404, 404, refusal("NoSuchKey"), storage.ErrNotExist, 2},
		"a stalled body":              {200, 400, refusal("RequestTimeout"), storage.ErrUnreachable, 2},
		"too much":                    {200, 400, refusal("Throttling"), storage.ErrUnreachable, 2},
		"too much to look":            {429, 200, "", storage.ErrUnreachable, 1},
		"too slow to look":            {408, 200, "", storage.ErrUnreachable, 1},
		"a wrong request":             {200, 400, refusal("MalformedXML"), nil, 2},
	} {
		s, requests := answering(t, s3.Options{}, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(c.head)
				return
			}
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		})
		err := s.Lock(t.Context(), "k", time.Now().Add(time.Hour))
		if c.want != nil {
			wantErr(t, name, err, c.want)
		} else if err == nil || errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
		if requests.Load() != int64(c.requests) {
			t.Errorf("%s: %d requests, want %d", name, requests.Load(), c.requests)
		}
	}
}
