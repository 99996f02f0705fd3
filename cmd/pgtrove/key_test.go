package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestARepositoryWithoutARootKeyGoesOnAsItWas: of the first format, with one key for all.
func TestARepositoryWithoutARootKeyGoesOnAsItWas(t *testing.T) {
	golden := filepath.Join("..", "..", "test", "format", "testdata", "repository")
	in := filepath.Join(t.TempDir(), "repo")
	if err := os.CopyFS(in, os.DirFS(golden)); err != nil {
		t.Fatal(err)
	}
	run := func(role string, want int, args ...string) string {
		t.Helper()
		var stdout bytes.Buffer
		code, stderr := local(t, &stdout, append([]string{"--repo", in, "--cache-dir", t.TempDir(), "--key-file", golden + "." + role + ".identity"}, args...)...)
		if code != want {
			t.Errorf("%v: exit %d, want %d: %s%s", args, code, want, &stdout, stderr)
		}
		return stdout.String() + stderr
	}
	for _, role := range []string{"owner", "writer"} {
		run(role, 0, "snapshots")
		if said := run(role, 0, "key", "list"); !strings.Contains(said, "of an older kind") || strings.Count(said, "*") != 1 {
			t.Error(said)
		}
	}
	made := filepath.Join(t.TempDir(), "made")
	if said := run("owner", 5, "key", "add", "--role", "writer", "--name", "db1", "--output", made); !strings.Contains(said, "no root key") {
		t.Error(said)
	}
	if _, err := os.Lstat(made); err == nil {
		t.Error("an identity that opens nothing is left")
	}
	run("owner", 5, "key", "rotate", "--data")
	run("writer", 8, "restore", "--to", filepath.Join(t.TempDir(), "to"))
	run("writer", 8, "verify", "--read-data")
	run("owner", 0, "key", "export", "--paper")
}
