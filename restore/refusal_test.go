package restore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgtrove/pgtrove/internal/durable"
)

// aProcess starts one that is there until the test ends.
func aProcess(t *testing.T) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// In a container a server has the number that the restore has in the next one.
func TestARestoreDoesNotTakeItselfForTheServer(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	for _, pid := range []int{os.Getpid(), os.Getppid(), -os.Getpid()} {
		put(t, filepath.Join(dir, "postmaster.pid"), fmt.Sprintln(pid))
		c.delta(t, m, dir)
	}
}

func TestOfTwoRestoresThatSeeOneMarkerOneGoesOn(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	put(t, filepath.Join(dir, Marker), "of one that was killed")
	o := c.options(m, dir)
	o.Delta = true
	d, err := o.destination()
	must(t, err)
	second, err := os.Open(filepath.Join(dir, Marker)) // and is about to lock it
	must(t, err)
	defer second.Close()
	first, err := d.claim(&o)
	must(t, err)
	if err := lockMark(second, dir); !errors.Is(err, ErrRefused) {
		t.Errorf("the second: %v", err)
	}
	must(t, errors.Join(os.Remove(filepath.Join(dir, Marker)), first.Close()))
	if err := lockMark(second, dir); !errors.Is(err, ErrRefused) {
		t.Errorf("the second, when the first was done: %v", err)
	}
}

func TestADataDirectoryThatCannotBeMadeSafeIsRefused(t *testing.T) {
	c, m := sampleCluster(t)
	for name, spoil := range map[string]func(dir, outside string, o *Options){
		"lies in": func(dir, outside string, o *Options) { // a link to the key, which is elsewhere
			put(t, filepath.Join(outside, "key"), "secret")
			o.Spare = []string{filepath.Join(dir, "key")}
			must(t, os.Symlink(filepath.Join(outside, "key"), o.Spare[0]))
		},
		"is a link": func(dir, outside string, _ *Options) {
			must(t, os.Rename(filepath.Join(dir, "global"), filepath.Join(outside, "global")))
			must(t, os.Symlink(filepath.Join(outside, "global"), filepath.Join(dir, "global")))
		},
	} {
		dir := c.fresh(t, m)
		o := c.options(m, dir)
		o.Delta = true
		spoil(dir, t.TempDir(), &o)
		before := restored(t, dir)
		var refused *RefusedError
		if _, err := Run(t.Context(), c.repo, o); !errors.As(err, &refused) || !strings.Contains(refused.Reason, name) {
			t.Errorf("%s: %v", name, err)
		}
		if !mapsEqual(before, restored(t, dir)) {
			t.Errorf("%s: the directory was changed", name)
		}
	}
}

func TestADryRunTellsOfLinksThatWouldBeReplaced(t *testing.T) {
	c, m := sampleCluster(t)
	dir := c.fresh(t, m)
	spoil(t, dir)
	must(t, os.Rename(filepath.Join(dir, "base"), filepath.Join(t.TempDir(), "base")))
	must(t, os.Symlink(t.TempDir(), filepath.Join(dir, "base")))
	o := c.options(m, dir)
	o.Delta = true
	s, err := DryRun(t.Context(), c.repo, o)
	must(t, err)
	if report := c.delta(t, m, dir); len(report.Replaced) < 2 || !slices.Equal(s.Replaced, report.Replaced) {
		t.Errorf("announced %v, replaced %v", s.Replaced, report.Replaced)
	}
}

func TestADirectoryThatWasEmptyMustBeStill(t *testing.T) {
	c, m := sampleCluster(t)
	o := c.options(m, filepath.Join(t.TempDir(), "data"))
	put(t, filepath.Join(o.To, durable.TempPrefix+"1"), "the marker of one that comes too late")
	l, err := (&destination{dir: o.To}).make(&o)
	must(t, err)
	must(t, l.close())
	for _, delta := range []bool{false, true} {
		o := c.options(m, filepath.Join(t.TempDir(), "data"))
		o.Delta = delta
		d, err := o.foresee(t.Context(), c.repo)
		must(t, err)
		_, err = Run(t.Context(), c.repo, o) // which another one was faster with
		must(t, err)
		before := restored(t, o.To)
		for _, marker := range []string{"", "of one that was killed"} {
			if marker != "" {
				put(t, filepath.Join(o.To, Marker), marker)
				before[Marker] = marker
			}
			if _, err := d.make(&o); !errors.Is(err, ErrRefused) {
				t.Errorf("delta %v: %v", delta, err)
			}
			if !mapsEqual(before, restored(t, o.To)) {
				t.Errorf("delta %v, marker %q: the directory was changed", delta, marker)
			}
		}
	}
}
