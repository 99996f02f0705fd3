package s3test

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and a server and breaks their connections. What its methods set holds for the bytes that pass from
// then on, on every connection. Use NewProxy.
type Proxy struct {
	Addr string // host:port of 127.0.0.1

	target   string
	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	faults   Faults
	passed   [2]int64 // bytes since Set, of all connections: requests, answers
	wg       sync.WaitGroup
}

// Faults are what a Proxy does. The zero value is nothing.
type Faults struct {
	CutRequests int64 // break the connection after this many bytes of requests; 0: never
	CutAnswers  int64 // the same of answers; -1: before the first, when the server has done its work
	Stall       bool  // pass nothing more, and keep the connections
	Refuse      bool  // break new connections
}

// NewProxy starts a proxy to target (host:port) that ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, listener: l, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.Set(Faults{})
		p.wg.Wait()
	})
	return p
}

// Set changes the faults, breaks the connections that there are and counts from 0.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.passed = f, [2]int64{}
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

// Passed is how many bytes of requests and answers have passed since Set.
func (p *Proxy) Passed() (requests, answers int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed[0], p.passed[1]
}

// Connections is how many clients are connected.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		server, err := net.Dial("tcp", p.target)
		p.mu.Lock()
		if err != nil || p.faults.Refuse {
			client.Close()
			if err == nil {
				server.Close()
			}
			p.mu.Unlock()
			continue
		}
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.wg.Go(func() { p.pass(server, client, 0) })
		p.wg.Go(func() { p.pass(client, server, 1) })
		p.mu.Unlock()
	}
}

// pass copies until a fault or an end, and then breaks both.
func (p *Proxy) pass(to, from net.Conn, direction int) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range []net.Conn{to, from} {
			c.Close()
			delete(p.conns, c)
		}
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		n, cut := p.allowed(n, direction, from)
		if _, werr := to.Write(buf[:n]); werr != nil || err != nil || cut {
			return
		}
	}
}

// allowed is how many of n bytes may pass, and whether the connection breaks after them.
func (p *Proxy) allowed(n, direction int, from net.Conn) (int, bool) {
	for n > 0 && p.stalls(from) {
		time.Sleep(5 * time.Millisecond)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.faults.CutRequests
	if direction == 1 {
		limit = p.faults.CutAnswers
	}
	if limit != 0 && n > 0 {
		if left := max(0, limit-p.passed[direction]); int64(n) >= left {
			p.passed[direction] += left
			return int(left), true
		}
	}
	p.passed[direction] += int64(n)
	return n, false
}

// stalls: until Set breaks the connection.
func (p *Proxy) stalls(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ours := p.conns[c]
	return p.faults.Stall && ours
}
