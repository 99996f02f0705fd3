package s3test_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/s3"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// echo is a server that sends back what it gets, and says how much it got when a connection ends.
func echo(t *testing.T) (addr string, got <-chan int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	lengths := make(chan int, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				n, buf := 0, make([]byte, 64<<10)
				for {
					part, err := c.Read(buf)
					n += part
					if _, werr := c.Write(buf[:part]); err != nil || werr != nil {
						lengths <- n
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String(), lengths
}

// exchange sends n bytes and gives what came back, when it had come, and why nothing more did.
func exchange(t *testing.T, addr string, n int) (back int, took time.Duration, err error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begun := time.Now()
	go func() { _, _ = c.Write(bytes.Repeat([]byte("x"), n)) }()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	back, err = io.ReadFull(c, make([]byte, n))
	return back, time.Since(begun), err
}

// The tests of bad networks rely on each of these.
func TestToxicsDoWhatTheySay(t *testing.T) {
	network := s3test.NewNetwork(t)
	target, got := echo(t)
	line := network.Line(target)
	const n = 300_000
	if back, _, err := exchange(t, line.Addr, n); back != n || err != nil {
		t.Errorf("a good line: %d of %d bytes, %v", back, n, err)
	}
	<-got

	line.Set(s3test.Toxic{Answers: true, Latency: 200 * time.Millisecond})
	if back, took, err := exchange(t, line.Addr, 10); back != 10 || took < 200*time.Millisecond {
		t.Errorf("latency: %d bytes after %s, %v", back, took, err)
	}
	<-got
	line.Set(s3test.Toxic{Rate: 500})
	if back, took, err := exchange(t, line.Addr, n); back != n || took < 500*time.Millisecond { // at 500 kB a second 600 ms, but for the first bytes
		t.Errorf("bandwidth: %d bytes after %s, %v", back, took, err)
	}
	<-got
	line.Set(s3test.Toxic{Cut: 100_000})
	if back, _, err := exchange(t, line.Addr, n); back > 100_000 || err == nil {
		t.Errorf("requests cut: %d bytes, %v", back, err)
	}
	// What came in the last piece may be lost with the connection.
	if served := <-got; served > 100_000 || served < 50_000 {
		t.Errorf("requests cut: the server got %d bytes", served)
	}
	line.Set(s3test.Toxic{Answers: true, Cut: 100_000})
	if back, _, err := exchange(t, line.Addr, n); back != 100_000 || err == nil {
		t.Errorf("answers cut: %d bytes, %v", back, err)
	}
	<-got
	line.Set(s3test.Toxic{Answers: true, Reset: 50 * time.Millisecond})
	if back, _, err := exchange(t, line.Addr, n); back == n || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that is reset: %d bytes, %v", back, err)
	}
	<-got
	line.Set()
	if back, _, err := exchange(t, line.Addr, n); back != n || err != nil {
		t.Errorf("a line that was mended: %d of %d bytes, %v", back, n, err)
	}
}

func TestAFrontAnswersInTheServersPlace(t *testing.T) {
	s := s3test.New(t, s3test.Options{})
	front := s3test.NewFront(t, s.Addr)
	bucket := s.Bucket()
	direct := s.Store(bucket, "", s.Root)
	s.Endpoint = "http://" + front.Addr
	through := s.Store(bucket, "", s.Root)
	data := bytes.Repeat([]byte("x"), 1<<20)
	if err := through.Put(t.Context(), "a/good", data); err != nil {
		t.Fatal(err)
	}
	if got, err := through.Get(t.Context(), "a/good", storage.Range{Off: 10, Len: 100}, nil); err != nil || len(got) != 100 {
		t.Errorf("through a front: %d bytes, %v", len(got), err)
	}

	var asked []s3test.Request
	say := s3test.Answer{Lose: true}
	decide := func(r s3test.Request) s3test.Answer {
		asked = append(asked, r)
		return say
	}
	front.Set(decide)
	if err := through.Put(t.Context(), "a/lost", data); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("Put, its answer lost: %v", err)
	}
	if got, err := direct.Get(t.Context(), "a/lost", storage.Range{}, nil); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the server has not done its work: %v", err)
	}
	say = s3test.Answer{Busy: true, RetryAfter: 3600}
	for range 2 {
		err := through.Put(t.Context(), "a/busy", data[:100])
		if _, ok := s3.IsThrottled(err); !errors.Is(err, storage.ErrUnreachable) || !ok || !strings.Contains(err.Error(), "503") {
			t.Errorf("Put, and the storage has too much to do: %v", err)
		}
	}
	if _, err := direct.Get(t.Context(), "a/busy", storage.Range{}, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a server that has too much to do has done it: %v", err)
	}
	if err := through.List(t.Context(), "a/", nil); !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("List: %v", err)
	}
	if c, want := front.Counts(), (s3test.Counts{All: 4, Lost: 1, Busy: 3, Early: 1}); c != want {
		t.Errorf("%+v, want %+v", c, want)
	}
	if want := (s3test.Request{Method: "GET", Key: bucket + "/a/", N: 4}); len(asked) != 4 || asked[3] != want {
		t.Errorf("asked %+v", asked)
	}
}
