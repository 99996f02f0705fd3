package model

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var mutantsFlag = flag.String("model.mutants", "", "run the mutants whose names match this regular expression, each until it is found")

// root is the module's, from this directory.
const root = "../.."

// mutate gives the files as the edits make them, and what is wrong with the edits.
func mutate(edits []edit) (files map[string]string, err error) {
	files = map[string]string{}
	for _, e := range edits {
		text, ok := files[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%q is %d times in %s", e.old, n, e.file)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// harm is how a violation begins that loses something; others only leave something over.
const harm = "^snapshot "

// mutantLimit is within how many schedules a mutant must be found.
const mutantLimit = 50000

func TestEveryMutantIsABugInTheSourceAsItIs(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range mutants() {
		if _, err := mutate(m.edits); err != nil {
			t.Errorf("mutant %s: %v", m.name, err)
		}
		if seen[m.name] || len(m.edits) == 0 {
			t.Errorf("mutant %q changes nothing or is there twice", m.name)
		}
		seen[m.name] = true
	}
	for name, edits := range editions() {
		if _, err := mutate(edits); err != nil {
			t.Errorf("edition %s: %v", name, err)
		}
	}
}

func TestTheModelFindsTheMutants(t *testing.T) {
	if *mutantsFlag == "" {
		return // minutes: for make model
	}
	chosen := regexp.MustCompile(*mutantsFlag)
	for _, m := range mutants() {
		if !chosen.MatchString(m.name) {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, "/", ""), func(t *testing.T) {
			began := time.Now()
			out := runEdited(t, m.edits, mutantLimit, "-model.only", harm, "-model.around", m.around, "-model.shrink", "0")
			found := regexp.MustCompile(`(?m)violation after (\d+) schedules.*$`).FindString(out)
			if found == "" {
				t.Fatalf("%s is not found in %d schedules:\n%s", m.name, mutantLimit, out)
			}
			t.Logf("%.0f s: %s", time.Since(began).Seconds(), found)
		})
	}
}

func TestOtherEditionsKeepEveryPromiseToo(t *testing.T) {
	if *mutantsFlag == "" {
		return // as above
	}
	for name, edits := range editions() {
		out := runEdited(t, edits, *nFlag/10)
		if !strings.Contains(out, "schedules per second") {
			t.Errorf("%s:\n%s", name, out)
		}
		t.Logf("%s:\n%s", name, out)
	}
}

// runEdited builds this test with edits in the source and runs n of its schedules.
func runEdited(t *testing.T, edits []edit, n int, flags ...string) (output string) {
	t.Helper()
	files, err := mutate(edits)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for name, text := range files {
		from, err := filepath.Abs(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[from] = to
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "model.test")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", list, "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var out bytes.Buffer
	args := []string{"-test.v", "-test.run", "^TestSchedulesKeepEveryPromise$", "-test.timeout", "0", "-model.n", fmt.Sprint(n), "-model.time", "0"}
	cmd := exec.CommandContext(t.Context(), binary, append(args, flags...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // what it says counts
	return out.String()
}
