package main

import (
	"encoding/binary"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// watch collects which files below base and global any process reads.
type watch struct {
	b    *bench
	fd   int
	dirs map[int]string // watch descriptor to directory, from the data directory
	done chan map[string]bool
}

func startWatch(b *bench, dataDir string) *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	b.must(err)
	w := &watch{b: b, fd: fd, dirs: map[int]string{}, done: make(chan map[string]bool, 1)}
	dirs, err := filepath.Glob(filepath.Join(dataDir, "base", "*"))
	b.must(err)
	for _, dir := range append(dirs, filepath.Join(dataDir, "global")) {
		wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_ACCESS)
		b.must(err)
		w.dirs[wd], err = filepath.Rel(dataDir, dir)
		b.must(err)
	}
	go func() { w.done <- w.collect() }()
	return w
}

// collect reads events until every watch was removed; nil when events were
// lost.
func (w *watch) collect() map[string]bool {
	seen := map[string]bool{}
	buf := make([]byte, 1<<16)
	for removed := 0; removed < len(w.dirs); {
		n, err := unix.Read(w.fd, buf)
		if err != nil {
			return nil
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd, mask := int(int32(binary.NativeEndian.Uint32(b))), binary.NativeEndian.Uint32(b[4:])
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				return nil
			case mask&unix.IN_IGNORED != 0:
				removed++
			default:
				name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
				seen[filepath.Join(w.dirs[wd], name)] = true
			}
			b = b[end:]
		}
	}
	return seen
}

// stop returns the paths, from the data directory.
func (w *watch) stop() map[string]bool {
	for wd := range w.dirs {
		_, err := unix.InotifyRmWatch(w.fd, uint32(wd))
		w.b.must(err)
	}
	seen := <-w.done
	w.b.must(unix.Close(w.fd))
	if len(seen) == 0 {
		w.b.Fatal("inotify lost events, or saw no file being read, not even one that had changed")
	}
	return seen
}
