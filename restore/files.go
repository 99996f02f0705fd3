package restore

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// maxOpen is how many files a restore keeps open for writing. Chunks that follow each other in a pack mostly belong to
// the same few files.
const maxOpen = 256

// writebackMin is from how many bytes on the kernel is told at once to begin writing them: the disk works while the rest of the
// plan is fetched and opened. What is shorter goes with the rest of its file, in the end.
const writebackMin = 64 << 10

// openFiles opens files when they are written to and keeps the ones used last. It is safe for concurrent use.
type openFiles struct {
	place func(file uint32) place
	old   map[uint32]bool // files of which only what differs is written

	mu   sync.Mutex
	open map[uint32]*handle
	tick uint64
	free [][]byte // buffers for what is compared
}

type handle struct {
	f     *os.File
	users int
	used  uint64 // tick of the last use
}

// writeAt writes b into a file that exists.
func (o *openFiles) writeAt(file uint32, b []byte, at int64) error {
	h, err := o.acquire(file)
	if err != nil {
		return err
	}
	if o.old[file] {
		err = o.writeDiffering(h.f, b, at)
	} else {
		_, err = h.f.WriteAt(b, at)
	}
	if len(b) >= writebackMin {
		startWriteback(h.f, at, int64(len(b)))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	h.users--
	return err
}

func (o *openFiles) writeDiffering(f *os.File, b []byte, at int64) error {
	var buf []byte
	o.mu.Lock()
	if n := len(o.free); n > 0 {
		buf, o.free = o.free[n-1], o.free[:n-1]
	}
	o.mu.Unlock()
	buf, _, err := writeDiffering(f, b, at, buf)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.free = append(o.free, buf)
	return err
}

func (o *openFiles) acquire(file uint32) (*handle, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tick++
	h := o.open[file]
	if h == nil {
		if err := o.evict(); err != nil {
			return nil, err
		}
		p := o.place(file)
		mode := os.O_WRONLY
		if o.old[file] {
			mode = os.O_RDWR
		}
		f, err := p.root.OpenFile(p.rel, mode, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", p.path(), err)
		}
		h = &handle{f: f}
		if o.open == nil {
			o.open = map[uint32]*handle{}
		}
		o.open[file] = h
	}
	h.users++
	h.used = o.tick
	return h, nil
}

// evict closes the file whose use lies furthest back, if there are too many.
func (o *openFiles) evict() error {
	if len(o.open) < maxOpen {
		return nil
	}
	var oldest uint32
	var found *handle
	for file, h := range o.open {
		if h.users == 0 && (found == nil || h.used < found.used) {
			oldest, found = file, h
		}
	}
	if found == nil {
		return nil
	}
	delete(o.open, oldest)
	return found.f.Close()
}

// close closes all files. Nobody may be writing.
func (o *openFiles) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var err error
	for _, h := range o.open {
		err = errors.Join(err, h.f.Close())
	}
	o.open = nil
	return err
}
