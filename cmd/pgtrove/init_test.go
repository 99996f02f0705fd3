package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pgtrove/pgtrove/test/s3test"
)

// local runs the program in this process, as on a host whose repository is a directory.
func local(t *testing.T, stdout *bytes.Buffer, args ...string) (code int, stderr string) {
	var errs bytes.Buffer
	a := newApp()
	a.stdin, a.stdout, a.stderr = nil, stdout, &errs
	a.out = &output{stdout: stdout, stderr: &errs}
	root := newRootCommand(a)
	args = append([]string{"--config", os.DevNull}, args...)
	root.SetArgs(args)
	code = a.report(root.ExecuteContext(t.Context()), exitPolicyOf(root, args))
	return code, errs.String()
}

// TestOfSeveralInitsOfOneDirectoryOneMakesIt: the others take nothing of it away.
func TestOfSeveralInitsOfOneDirectoryOneMakesIt(t *testing.T) {
	const inits, rounds = 4, 25
	for round := range rounds {
		dir := t.TempDir()
		in := filepath.Join(dir, "repo")
		if round%2 == 0 { // and else it is for them to make
			if err := os.Mkdir(in, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		var codes [inits]int
		var said [inits]string
		key := func(i int) string { return filepath.Join(dir, fmt.Sprint("key", i)) }
		start, all := make(chan struct{}), sync.WaitGroup{}
		for i := range inits {
			all.Go(func() {
				<-start
				codes[i], said[i] = local(t, new(bytes.Buffer), "--repo", in, "--key-file", key(i), "init")
			})
		}
		close(start)
		all.Wait()
		made := 0
		for i := range inits {
			switch codes[i] {
			case codeDone:
				made++
				if code, stderr := local(t, new(bytes.Buffer), "--repo", in, "--key-file", key(i), "snapshots"); code != codeDone {
					t.Errorf("round %d: the repository does not open: exit %d, %s", round, code, stderr)
				}
			case codeRefused:
				if _, err := os.Lstat(key(i)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("round %d: an identity that opens nothing is left: %v", round, err)
				}
			default:
				t.Errorf("round %d: exit %d, %s", round, codes[i], said[i])
			}
		}
		if bundles, err := filepath.Glob(filepath.Join(in, "keys", "*.entry")); made != 1 || err != nil || len(bundles) != 1 {
			t.Fatalf("round %d: %d inits made it, %d keys, %v: %v", round, made, len(bundles), err, codes)
		}
	}
}

// full is standard output on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestAnInitThatCannotSayWhatItMadeKeepsIt(t *testing.T) {
	h := newRemote(t)
	for _, name := range []string{"s3://" + h.bucket + "/untold", filepath.Join(t.TempDir(), "repo")} {
		key := filepath.Join(t.TempDir(), "key")
		in := []string{"--repo", name, "--key-file", key}
		var errs bytes.Buffer
		a := newApp()
		a.stdin, a.stdout, a.stderr = nil, full{}, &errs
		a.out = &output{stdout: full{}, stderr: &errs}
		root := newRootCommand(a)
		root.SetArgs(append(append([]string{"--config", os.DevNull}, in...), "init"))
		if code := a.report(root.ExecuteContext(t.Context()), exitPolicyOf(root, nil)); code == codeDone ||
			!strings.Contains(errs.String(), "the repository was made") || !strings.Contains(errs.String(), key) {
			t.Errorf("exit %d: %s", code, errs.String())
		}
		h.want(0, "no snapshots", append(in, "snapshots")...)
	}
}

// TestAnInitThatIsRefusedItsOwnConfigDoesNotLoseTheIdentity: its answer is lost, and the request that is sent again finds the object locked.
func TestAnInitThatIsRefusedItsOwnConfigDoesNotLoseTheIdentity(t *testing.T) {
	h := newRemote(t)
	server := s3test.New(t, s3test.Options{}) // without versions, so that it refuses to touch what is locked
	bucket := server.Locked()
	front := s3test.NewFront(t, server.Addr)
	for _, v := range server.Env(server.Root) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://"+front.Addr)
	lost := false
	front.Set(func(r s3test.Request) s3test.Answer {
		if r.Method != http.MethodPut || r.Key != bucket+"/fleet/config" || lost {
			return s3test.Answer{}
		}
		lost = true
		return s3test.Answer{Lose: true}
	})
	key := filepath.Join(t.TempDir(), "key")
	in := []string{"--repo", "s3://" + bucket + "/fleet", "--key-file", key}
	_, stdout, stderr := h.run(append(in, "init", "--object-lock", "1d")...)
	if !lost || !strings.Contains(stdout+stderr, key) { // made, or maybe made, and then it says that the identity was kept
		t.Errorf("a lost answer %v: %s%s", lost, stdout, stderr)
	}
	h.want(0, "no snapshots", append(in, "snapshots")...)
}

func TestHowOftenToPruneFollowsFromTheLock(t *testing.T) {
	for days, want := range map[int]string{1: "every 6 hours", 2: "every 12 hours", 3: "every 12 hours", 4: "every night", 14: "every night", 365: "every night"} {
		if got := pruneOften(days); got != want {
			t.Errorf("%d days: %s, want %s", days, got, want)
		}
	}
}
