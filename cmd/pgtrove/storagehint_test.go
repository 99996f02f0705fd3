package main

import (
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/pgtrove/pgtrove/storage"
)

func TestHintsSpeakOfTheStorageThatFailed(t *testing.T) {
	a := newApp()
	for want, err := range map[string]error{
		"mounted?":        &storage.Error{Op: "get", Class: storage.ErrUnreachable, Err: &fs.PathError{Op: "open", Path: "/repo", Err: fs.ErrNotExist}},
		"endpoint":        &storage.Error{Op: "get", Class: storage.ErrUnreachable, Err: &url.Error{Op: "Get", URL: "https://host", Err: errors.New("refused")}},
		"too much to do":  &storage.Error{Op: "get", Class: storage.ErrUnreachable, Err: minio.ErrorResponse{Code: "SlowDown", StatusCode: http.StatusServiceUnavailable}},
		"as the account":  &storage.Error{Op: "put", Class: storage.ErrDenied, Err: &fs.PathError{Op: "open", Path: "/repo", Err: fs.ErrPermission}},
		"bucket's policy": &storage.Error{Op: "put", Class: storage.ErrDenied, Err: minio.ErrorResponse{Code: "AccessDenied", StatusCode: http.StatusForbidden}},
	} {
		if got := a.hint(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q, not %q", err, got, want)
		}
	}
}
