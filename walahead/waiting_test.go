package walahead

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestWaitingIsCountedNoFurtherThanNeeded(t *testing.T) {
	dir := t.TempDir()
	status := filepath.Join(dir, "archive_status")
	if _, err := Waiting(dir, 1); err == nil {
		t.Error("counted where there is nothing to count")
	}
	if err := os.Mkdir(status, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 2500 {
		if err := os.WriteFile(filepath.Join(status, fmt.Sprintf("%024X.ready", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(status, segment+".done"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Waiting(dir, 1<<30); n != 2500 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := Waiting(dir, 10); n < 10 || n > 1000 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if !Ready(dir, fmt.Sprintf("%024X", 7)) || Ready(dir, segment) {
		t.Error("ready")
	}
}
