package main

import (
	"bytes"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/klauspost/compress/zstd"
)

const pageSize = 8192

// pages are the page hashes of the relation files of a cluster, by path.
type pages struct {
	seed  maphash.Seed
	files map[string][]uint64
}

// difference is what lies between two states of the relation files: main
// forks, maps and all. It is found without pgtrove.
type difference struct {
	changed   int64           // pages that differ or are new
	best      int64           // bytes of those that are not all zero, in file order, as one zstd stream
	apart     int64           // the same when every 64 pages of a file are compressed on their own
	unchanged map[string]bool // main forks that are as they were, by path from the data directory
}

// readPages hashes every page.
func readPages(b *bench, dir string) *pages {
	p := &pages{seed: maphash.MakeSeed()}
	p.next(b, dir, func(string, int, uint64, []byte) {})
	return p
}

// advance replaces p by the present state and says what has changed.
func (p *pages) advance(b *bench, dir string) difference {
	d := difference{unchanged: map[string]bool{}}
	var out counter
	// The level, and one goroutine, as pgtrove has it.
	stream, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	b.must(err)
	var chunk, packed []byte
	cut := func() {
		packed = stream.EncodeAll(chunk, packed[:0])
		d.apart, chunk = d.apart+int64(min(len(packed), len(chunk))), chunk[:0]
	}
	file := ""
	before, mainFork := p.files, regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	p.next(b, dir, func(path string, i int, hash uint64, page []byte) {
		if old := before[path]; i < len(old) && old[i] == hash {
			return
		}
		d.changed++
		if hash == 0 {
			return
		}
		_, err := stream.Write(page)
		b.must(err)
		if path != file || len(chunk) == 64*pageSize {
			cut()
		}
		file, chunk = path, append(chunk, page...)
	})
	cut()
	b.must(stream.Close())
	d.best = int64(out)
	for path, hashes := range p.files {
		if mainFork.MatchString(filepath.Base(path)) && len(hashes) > 0 && slices.Equal(hashes, before[path]) {
			d.unchanged[path] = true
		}
	}
	return d
}

// next reads all relation files in order of name. The hash of an all-zero page
// is 0.
func (p *pages) next(b *bench, dir string, fn func(path string, i int, hash uint64, page []byte)) {
	p.files = map[string][]uint64{}
	relation := regexp.MustCompile(`^(base/[0-9]+|global)/[0-9]+(_(fsm|vm|init))?(\.[0-9]+)?$`)
	zero, page := make([]byte, pageSize), make([]byte, pageSize)
	eachFile(b, dir, func(path string, info fs.FileInfo) {
		rel, err := filepath.Rel(dir, path)
		b.must(err)
		if !relation.MatchString(rel) {
			return
		}
		f, err := os.Open(path)
		b.must(err)
		defer f.Close()
		hashes := make([]uint64, 0, info.Size()/pageSize)
		for {
			_, err := io.ReadFull(f, page)
			if errors.Is(err, io.EOF) {
				break
			}
			b.must(err)
			var hash uint64
			if !bytes.Equal(page, zero) {
				hash = max(maphash.Bytes(p.seed, page), 1)
			}
			fn(rel, len(hashes), hash, page)
			hashes = append(hashes, hash)
		}
		p.files[rel] = hashes
	})
}

// counter is a Writer that keeps only the number of bytes.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
