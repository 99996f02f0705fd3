package s3test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// Network is toxiproxy, which stands between clients and servers as a bad network does. It ends with the test. Use NewNetwork.
type Network struct {
	t   testing.TB
	api string // URL
	n   int    // lines made
}

// Line is a way through a Network to one server. Its methods fail the test when they fail.
type Line struct {
	Addr string // host:port of 127.0.0.1

	network *Network
	name    string
	toxics  []string // names
}

// Toxic is what a line does to what passes, on connections that there are and that come. Exactly one of the fields but Answers is set.
type Toxic struct {
	Answers bool          // it does so to answers, and else to requests
	Latency time.Duration // everything is that late
	Rate    int           // bytes per second, of each connection, in thousands
	Cut     int           // a connection ends after this many bytes
	Reset   time.Duration // a connection is reset (RST) after that time
}

// NewNetwork starts toxiproxy, without any line.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	bin, err := pgtest.SetupScript("toxiproxy.sh")
	if err != nil {
		t.Fatal(err)
	}
	port, lock, err := pgtest.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	said, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-host", "127.0.0.1", "-port", strconv.Itoa(port))
	cmd.Env = append(os.Environ(), "LOG_LEVEL=error")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatalf("start toxiproxy: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it is always killed
		said.Close()
		lock.Close()
	})
	n := &Network{t: t, api: "http://" + addr}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		if r, err := http.Get(n.api + "/version"); err == nil {
			r.Body.Close()
			return n
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(said.Name())
			t.Fatalf("toxiproxy does not listen after %s: %s", startTimeout, text)
		}
	}
}

// Line makes a line to target (host:port) on which nothing is wrong. It is not for several goroutines at once.
func (n *Network) Line(target string) *Line {
	n.t.Helper()
	n.n++
	l := &Line{network: n, name: fmt.Sprintf("line%d", n.n)}
	var made struct{ Listen string }
	n.ask(http.MethodPost, "/proxies", map[string]any{"name": l.name, "listen": "127.0.0.1:0", "upstream": target, "enabled": true}, &made)
	l.Addr = made.Listen
	return l
}

// Set puts these toxics on the line in place of those that it had.
func (l *Line) Set(toxics ...Toxic) {
	l.network.t.Helper()
	path := "/proxies/" + l.name + "/toxics"
	for _, name := range l.toxics {
		l.network.ask(http.MethodDelete, path+"/"+name, nil, nil)
	}
	l.toxics = nil
	for i, t := range toxics {
		kind, how := t.attributes()
		name, stream := fmt.Sprintf("%s%d", kind, i), "upstream"
		if t.Answers {
			stream = "downstream"
		}
		l.network.ask(http.MethodPost, path, map[string]any{"name": name, "type": kind, "stream": stream, "toxicity": 1, "attributes": how}, nil)
		l.toxics = append(l.toxics, name)
	}
}

// attributes are what toxiproxy calls it.
func (t Toxic) attributes() (kind string, how map[string]any) {
	switch {
	case t.Latency > 0:
		return "latency", map[string]any{"latency": t.Latency.Milliseconds()}
	case t.Rate > 0:
		return "bandwidth", map[string]any{"rate": t.Rate}
	case t.Cut > 0:
		return "limit_data", map[string]any{"bytes": t.Cut}
	}
	return "reset_peer", map[string]any{"timeout": t.Reset.Milliseconds()}
}

func (n *Network) ask(method, path string, body, answer any) {
	n.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		n.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(n.t.Context(), method, n.api+path, bytes.NewReader(text))
	if err != nil {
		n.t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		n.t.Fatalf("ask toxiproxy: %v", err)
	}
	defer r.Body.Close()
	said, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode >= 300 {
		n.t.Fatalf("toxiproxy: %s %s: %s %s %v", method, path, r.Status, said, err)
	}
	if answer == nil {
		return
	}
	if err := json.Unmarshal(said, answer); err != nil {
		n.t.Fatalf("toxiproxy: %s %s: %v", method, path, err)
	}
}
