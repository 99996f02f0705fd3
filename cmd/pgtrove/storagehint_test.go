package main

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/test/s3test"
)

func TestHintsSpeakOfTheStorageThatFailed(t *testing.T) {
	a := newApp()
	answer := func(op, code string, status int, class error) error {
		return &storage.Error{Op: op, Class: class, Err: minio.ErrorResponse{Code: code, StatusCode: status}}
	}
	for want, err := range map[string]error{
		"mounted?":        &storage.Error{Op: "get", Class: storage.ErrUnreachable, Err: &fs.PathError{Op: "open", Path: "/repo", Err: fs.ErrNotExist}},
		"endpoint":        &storage.Error{Op: "get", Class: storage.ErrUnreachable, Err: &url.Error{Op: "Get", URL: "https://host", Err: errors.New("refused")}},
		"too much to do":  answer("get", "SlowDown", http.StatusServiceUnavailable, storage.ErrUnreachable),
		"as the account":  &storage.Error{Op: "put", Class: storage.ErrDenied, Err: &fs.PathError{Op: "open", Path: "/repo", Err: fs.ErrPermission}},
		"bucket's policy": answer("put", "AccessDenied", http.StatusForbidden, storage.ErrDenied),
		"takes no writes": answer("put", "x", http.StatusForbidden, storage.ErrReadOnly),
		"--s3-region":     answer("get", "PermanentRedirect", http.StatusMovedPermanently, storage.ErrUnreachable),
		"host's clock:":   answer("get", "RequestTimeTooSkewed", http.StatusForbidden, storage.ErrDenied),
		"host's clock r": &storage.Error{Op: "get", Class: storage.ErrUnreachable,
			Err: &url.Error{Op: "Get", URL: "https://host", Err: x509.CertificateInvalidError{Reason: x509.Expired}}},
		"session token":       answer("get", "ExpiredToken", http.StatusBadRequest, storage.ErrDenied),
		"Rules of the bucket": answer("get", "InvalidObjectState", http.StatusForbidden, storage.ErrDenied),
	} {
		if got := a.hint(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q, not %q", err, got, want)
		}
		if got := a.hint(hintRights(err, false)); errors.Is(err, storage.ErrDenied) && want != "bucket's policy" && want != "as the account" && !strings.Contains(got, want) {
			t.Errorf("%v, in init: %q, not %q", err, got, want)
		}
	}
}

// TestUsualMistakesWithABucketAreRecognised, and what waiting does not mend is not waited for.
func TestUsualMistakesWithABucketAreRecognised(t *testing.T) {
	h := newRemote(t)
	secure := s3test.New(t, s3test.Options{TLS: true})
	says := httptest.NewTLSServer(http.NotFoundHandler()) // http is told that it should be https; versitygw ends the connection
	defer says.Close()
	for _, v := range h.server.Env(h.server.Root) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	h.want(7, "is it https://?", "--s3-endpoint", "http://"+secure.Addr, "--retry-time", "0", "snapshots")
	for _, c := range []struct {
		code        int
		hint        string
		flag, value string
	}{
		{7, "(--s3-ca-file, ", "--s3-endpoint", secure.Endpoint},
		{2, "is it https://?", "--s3-endpoint", strings.Replace(says.URL, "https", "http", 1)},
		{2, "begins with http://", "--s3-endpoint", "https://" + h.server.Addr},
		{2, "give the bucket's region with --s3-region", "--s3-region", "eu-west-7"},
	} {
		if _, stderr := h.want(c.code, c.hint, "-v", "--retry-time", "5s", c.flag, c.value, "snapshots"); strings.Contains(stderr, "trying again") {
			t.Errorf("%s %s: %s", c.flag, c.value, stderr)
		}
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		was := os.Getenv(name)
		t.Setenv(name, "")
		h.want(2, "hint: set "+name+", too", "snapshots")
		t.Setenv(name, was)
	}
}
