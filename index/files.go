package index

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fileSum is what a file of a closed database was. Badger panics in goroutines of its own on some damaged files and takes
// others for empty, so nothing of it is opened that is not byte for byte what was closed.
type fileSum struct {
	size    int64
	sum     uint32
	modTime time.Time // not written down: to tell a file that did not change while the cache was open
}

// sumFiles reads every file in dir. Tables, which are nearly all of it, are written once: those that known has with the same size and time are
// not read again.
func sumFiles(dir string, known map[string]fileSum) (map[string]fileSum, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	sums := make(map[string]fileSum, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		s := fileSum{size: info.Size(), modTime: info.ModTime()}
		if k, ok := known[e.Name()]; ok && filepath.Ext(e.Name()) == ".sst" && k.size == s.size && k.modTime.Equal(s.modTime) {
			s.sum = k.sum
		} else if s.sum, err = sumFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
		sums[e.Name()] = s
	}
	return sums, nil
}

func sumFile(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 256<<10)); err != nil {
		return 0, err
	}
	return h.Sum32(), nil
}

// formatSums writes a line for each file.
func formatSums(sums map[string]fileSum) string {
	var b strings.Builder
	for name, s := range sums {
		fmt.Fprintf(&b, "\n%d %08x %s", s.size, s.sum, name)
	}
	return b.String()
}

// matchSums reports whether the lines of formatSums describe exactly these files.
func matchSums(lines string, sums map[string]fileSum) bool {
	n := 0
	for line := range strings.Lines(lines) {
		size, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		sum, name, _ := strings.Cut(rest, " ")
		s, ok := sums[name]
		if !ok || size != fmt.Sprint(s.size) || sum != fmt.Sprintf("%08x", s.sum) {
			return false
		}
		n++
	}
	return n == len(sums)
}
