package ahead

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
)

// TestStorageThatIsOutIsTriedOnceInACall, also where the call has to ask first whether an earlier one has archived its segment.
func TestStorageThatIsOutIsTriedOnceInACall(t *testing.T) {
	w := newWorld(t, "15", waiting())
	names := w.backlog(3)
	w.push(0, names[0])
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var requests atomic.Int32
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			requests.Add(1)
			c.Close()
		}
	}()
	usual := w.ExtraEnv
	w.ExtraEnv = append(w.env(), "PGTROVE_REPO=s3://absent/x", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_REGION=r",
		"AWS_ENDPOINT_URL_S3=http://"+listener.Addr().String())
	w.push(7, names[1], "--retry-time", "0")
	w.ExtraEnv = usual
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
	if r := w.push(0, names[1]); !strings.Contains(r.Stderr, beforeItsTurn) {
		t.Errorf("%s", r.Stderr)
	}
}
