package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEverySectionHasItsPlaceInThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sections() {
		path := filepath.Join(t.TempDir(), "page.md")
		if err := os.WriteFile(path, page, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := fillIn(path, s.name, "what was found\n"); err != nil {
			t.Error(err)
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := "<!-- bench:" + s.name + " -->\nwhat was found\n<!-- /bench -->\n"; strings.Count(string(got), want) != 1 {
			t.Errorf("section %s is not filled in:\n%s", s.name, got)
		}
	}
	if err := fillIn(filepath.Join(t.TempDir(), "none"), "first", ""); err == nil {
		t.Error("a page that is not there was filled in")
	}
}

// cluster makes a directory with relation files as a cluster has them, one page
// for each letter of what they hold; "." is an all-zero page.
func cluster(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, letters := range files {
		var content []byte
		for _, c := range []byte(letters) {
			page := make([]byte, pageSize)
			if c != '.' {
				for i := range page {
					page[i] = c
				}
			}
			content = append(content, page...)
		}
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestChangedPagesAreThoseOfRelationFilesThatDifferOrAreNew(t *testing.T) {
	b := &bench{}
	p := readPages(b, cluster(t, map[string]string{
		"base/5/100": "abc", "base/5/100_fsm": "xy", "base/5/100.1": "aa", "base/5/101": "ab", "base/1/102": "q", "base/5/103": "z",
		"pg_xact/0000": "m", "base/5/pg_internal.init": "m",
	}))
	d := p.advance(b, cluster(t, map[string]string{
		"base/5/100": "abX" /* one changed */, "base/5/100_fsm": "zy" /* one in a map */, "base/5/100.1": "aa", "base/5/101": "ab.c", /* two are new, one of them zero */
		"base/1/102": "q", "base/5/104": "z", /* one in a new file */
		"pg_xact/0000": "n", "base/5/pg_internal.init": "n",
	}))
	if d.changed != 5 {
		t.Errorf("%d pages changed, want 5", d.changed)
	}
	if d.best < 20 || d.best > 200 {
		t.Errorf("five pages, four of one letter each and one of zeros, compress to %d bytes", d.best)
	}
	if len(d.unchanged) != 2 || !d.unchanged["base/5/100.1"] || !d.unchanged["base/1/102"] {
		t.Errorf("unchanged main forks: %v", d.unchanged)
	}
	if d = p.advance(b, cluster(t, map[string]string{"base/5/100": "abX"})); d.changed != 0 || d.best > 20 {
		t.Errorf("nothing changed, and the difference is %d pages, %d bytes", d.changed, d.best)
	}
}

func TestReadsOfFilesAreSeen(t *testing.T) {
	dir := cluster(t, map[string]string{"base/5/100": "a", "base/5/101": "a", "global/1262": "a"})
	w := startWatch(&bench{}, dir)
	if _, err := os.ReadFile(filepath.Join(dir, "base/5/101")); err != nil {
		t.Fatal(err)
	}
	if seen := w.stop(); len(seen) != 1 || !seen["base/5/101"] {
		t.Errorf("seen: %v", seen)
	}
}

func TestSpreadIsTheMedianWithItsRange(t *testing.T) {
	if got := spread([]float64{3, 1, 2, 10}); got != "2.50 (1.00-10.00)" {
		t.Error(got)
	}
}

func TestASampleCountsForTheInnermostKindOfWork(t *testing.T) {
	const traces = `File: bench
Type: cpu
Time: 2026-11-21 03:37:00 UTC
Duration: 6.65s, Total samples = 60ms (134.10%)
-----------+-------------------------------------------------------
      30ms   runtime.memmove
             github.com/klauspost/compress/zstd.(*Decoder).DecodeAll
             github.com/pgtrove/pgtrove/pack.(*Compressor).Compress
-----------+-------------------------------------------------------
      10ms   github.com/klauspost/compress/zstd.matchLen (inline)
             github.com/klauspost/compress/zstd.(*fastEncoder).Encode
             github.com/pgtrove/pgtrove/pack.(*Compressor).Compress
-----------+-------------------------------------------------------
      20ms   runtime.mallocgc
-----------+-------------------------------------------------------
`
	s := sortSamples(traces, work())
	for what, want := range map[string]string{work()[0].what: "16.7 %", work()[1].what: "50.0 %", otherWork: "33.3 %"} {
		if got := s.share(what); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
}

func TestASimulatedPageChangesOnlyWhenItIsListed(t *testing.T) {
	template := pageTemplate()
	changed := 0
	for state := 1; state <= 2; state++ {
		before, after := &simulated{number: 3, state: state - 1, template: template}, &simulated{number: 3, state: state, template: template}
		a, z := make([]byte, 16*pageSize), make([]byte, 16*pageSize)
		for at := int64(0); at < 8192; at += 16 {
			for _, r := range []struct {
				s *simulated
				p []byte
			}{{before, a}, {after, z}} {
				if _, err := r.s.ReadAt(r.p, at*pageSize); err != nil {
					t.Fatal(err)
				}
			}
			for i := range int64(16) {
				differs := string(a[i*pageSize:(i+1)*pageSize]) != string(z[i*pageSize:(i+1)*pageSize])
				if differs != after.Has(at+i) {
					t.Fatalf("state %d, page %d: changed %v, listed %v", state, at+i, differs, !differs)
				}
				if differs {
					changed++
				}
			}
		}
	}
	if changed < 8 || changed > 32 {
		t.Errorf("%d of 2 * 8192 pages changed, want about 16", changed)
	}
}
