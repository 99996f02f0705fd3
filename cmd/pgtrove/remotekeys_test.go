package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKeysOfAServiceAreWaitedFor: the service that gives them fails for a moment, as the storage may, and nobody's recovery ends of it.
func TestKeysOfAServiceAreWaitedFor(t *testing.T) {
	h := newRemote(t)
	h.want(0, "made in", "init")
	pgdata, file := h.dataDirectory()
	h.want(0, "", "wal", "push", file)

	failures := 0
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if failures--; failures >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"AccessKeyId": h.server.Root.AccessKey, "SecretAccessKey": h.server.Root.SecretKey,
			"Expiration": time.Now().Add(time.Hour).UTC()})
	}))
	defer service.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.URL)
	to := filepath.Join(pgdata, "pg_wal", "RECOVERYHISTORY")
	for _, c := range [][]string{{"wal", "fetch", filepath.Base(file), to}, {"wal", "push", file}, {"snapshots"}} {
		failures = 2
		h.want(0, "no credentials from the container's role", append([]string{"-v"}, c...)...)
		if failures >= 0 {
			t.Errorf("%s: the service was not asked often enough to fail twice", c)
		}
	}

	service.Close()
	h.want(126, "tried", "--retry-time", "700ms", "wal", "fetch", filepath.Base(file), to)
	h.want(7, "tried", "--retry-time", "700ms", "snapshots")
	h.want(7, "no credentials", "--retry-time", "0", "snapshots")

	// What no time mends is said at once.
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	if _, stderr := h.want(2, "not both there", "-v", "snapshots"); strings.Contains(stderr, "trying again") {
		t.Error(stderr)
	}
}
