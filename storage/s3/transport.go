package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// What a connection costs and how long it may take.
const (
	dialTimeout = 10 * time.Second
	idleTimeout = 20 * time.Second // servers end theirs after about that
	idleConns   = 32
	bufferSize  = 128 << 10 // bytes, two per connection
	// defaultPatience is how long a connection may stand still.
	defaultPatience = time.Minute
	// maxListing is the longest answer to a listing of a thousand keys that is read, in bytes.
	maxListing = 16 << 20
)

// newTransport gives up where the standard one waits for ever: nothing that it does goes on for longer than patience without a byte having
// been sent or received.
func newTransport(caFile string, patience time.Duration) (http.RoundTripper, error) {
	roots, err := loadRoots(caFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	return strict{&http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &liveConn{c, patience}, nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: patience,
		IdleConnTimeout:       min(idleTimeout, patience/2),
		MaxIdleConns:          idleConns,
		MaxIdleConnsPerHost:   idleConns,
		WriteBufferSize:       bufferSize,
		ReadBufferSize:        bufferSize,
		DisableCompression:    true, // an answer must have the length that it says
	}}, nil
}

// loadRoots are the certificates of that file alone, as in AWS's tools, or nil for the system's.
func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: CA file: %w", ErrOptions, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: CA file: no certificate in %s", ErrOptions, file)
	}
	return roots, nil
}

// liveConn ends when nothing moves in either direction for the time of patience.
type liveConn struct {
	net.Conn
	patience time.Duration
}

func (c *liveConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.moved()
	}
	return n, err
}

func (c *liveConn) Write(p []byte) (int, error) {
	total := 0
	for {
		c.moved()
		part := p[total:min(len(p), total+bufferSize)]
		n, err := c.Conn.Write(part)
		total += n
		if err != nil || total == len(p) {
			c.moved()
			return total, err
		}
	}
}

// moved applies to the other direction's waiting call too.
func (c *liveConn) moved() {
	_ = c.SetDeadline(time.Now().Add(c.patience)) // fails only when the connection is closed, and then all else does
}

// strict refuses answers of 200 to a listing that are none: minio-go takes any XML, even an error or a proxy's page, for an empty listing. And it
// notes what the library drops.
type strict struct{ next http.RoundTripper }

var errNoListing = errors.New("the answer is not a listing")

// RoundTrip implements http.RoundTripper.
func (s strict) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := s.next.RoundTrip(req)
	if n := noted(req.Context()); n != nil && err == nil {
		n.take(resp)
	}
	if err != nil || resp.StatusCode != http.StatusOK || req.Method != http.MethodGet || req.URL.Query().Get("list-type") == "" {
		return resp, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxListing))
	resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("in the middle of a listing: %w", err)
	}
	if err := checkListing(body); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// checkListing looks for the two elements without which a listing proves nothing.
func checkListing(body []byte) error {
	d := xml.NewDecoder(bytes.NewReader(body))
	for {
		token, err := d.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", errNoListing, err)
		}
		if start, ok := token.(xml.StartElement); ok {
			if start.Name.Local != "ListBucketResult" {
				return fmt.Errorf("%w: it is <%s>", errNoListing, start.Name.Local)
			}
			break
		}
	}
	if !bytes.Contains(body, []byte("<IsTruncated>")) {
		return fmt.Errorf("%w: it does not say whether it is complete", errNoListing)
	}
	return nil
}
