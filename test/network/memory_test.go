package network

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/internal/pg"
	"github.com/pgtrove/pgtrove/test/pgtest"
	"github.com/pgtrove/pgtrove/test/s3test"
)

// What one worker's pipeline holds, in bytes.
const (
	// packInMemory is a pack with the room for its directory and page digests.
	packInMemory = 33 << 20
	// backupBuffers: the pack that is being filled, the one that the worker waits with, and those of the two uploaders.
	backupBuffers = 4 * packInMemory
	// restoreBuffers: eight pieces of packs that are read ahead and the one that is opened, and as much again that the library reads into.
	restoreBuffers = 2 * 9 * (4 << 20)
	// programItself is all else: code, index, buffers of workers and connections, and what the collector has not come to.
	programItself = 120 << 20
	// noiseSize is more than both together, so that a pipeline without bounds does not get away with it.
	noiseSize = backupBuffers + programItself + 64<<20
)

// memory backs a large relation up through a link of 10 Mbit/s for each connection, and restores it through one of as much for all
// that it makes. When the pipeline has come to a stand, the link is widened: what was read by then is what the program holds.
func (w *world) memory(t *testing.T) {
	plantNoise(t, filepath.Join(w.Dir, "base", "5", "999999"))
	h := w.newHost(t, "memory", false)
	line := w.network.Line(w.storage.Addr)
	narrow := func(begun, rate int, args ...string) {
		t.Helper()
		line.Set(s3test.Toxic{Rate: rate}, s3test.Toxic{Answers: true, Rate: rate})
		cmd := h.command(line.Addr, append([]string{"--jobs", "1"}, args...)...)
		said := &watched{}
		cmd.Stderr = said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		watchdog := hang(cmd.Process)
		defer watchdog.Stop()
		stands(t, cmd, begun)
		line.Set()
		_ = cmd.Wait() // the exit code says it
		used := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
		bound := map[string]int64{"backup": backupBuffers + programItself, "restore": restoreBuffers + programItself}[args[0]]
		t.Logf("%s: at most %d MB of memory, and %d MB are allowed", args[0], used>>20, bound>>20)
		if code := pgtest.ExitCode(cmd.ProcessState); code != 0 || used > bound {
			t.Errorf("%s: exit %d, %d bytes of memory, and %d are allowed\n%s", args[0], code, used, bound, said.text())
		}
	}
	narrow(packInMemory, 1250, "backup", "--checkpoint", "fast")
	to := filepath.Join(h.dir, "restored")
	narrow(1<<20, 1250/8, "restore", "--no-recovery", "--to", to)
	info, err := os.Stat(filepath.Join(to, "base", "5", "999999"))
	if err != nil || info.Size() != noiseSize {
		t.Errorf("restored: %v %v", info, err)
	}
}

// stands waits until a program has read some bytes, and then little for a while, by the kernel's count.
func stands(t *testing.T, cmd *exec.Cmd, begun int) {
	t.Helper()
	count := regexp.MustCompile(`(?m)^rchar: (\d+)$`)
	const little, ticks = 5 << 20, 10 // in that many of a fifth of a second
	var seen []int
	for range 150 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", cmd.Process.Pid))
		m := count.FindSubmatch(text)
		if err != nil || m == nil {
			t.Fatalf("what the program has read: %q, %v", text, err)
		}
		n, _ := strconv.Atoi(string(m[1]))
		seen = append(seen, n)
		if n > begun && len(seen) > ticks && n-seen[len(seen)-1-ticks] < little {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Errorf("the program never stands still: it has read %d bytes", seen[len(seen)-1])
}

// plantNoise writes a relation file of pages that are right, and hold nothing that could be compressed.
func plantNoise(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := bufio.NewWriterSize(f, 1<<20)
	noise := rand.NewChaCha8([32]byte{1})
	page := make([]byte, 8192)
	for n := range noiseSize / len(page) {
		_, _ = noise.Read(page)
		binary.LittleEndian.PutUint16(page[14:], 8192) // 0 would be a page without content
		binary.LittleEndian.PutUint16(page[8:], pg.PageChecksum(page, uint32(n)))
		if _, err := out.Write(page); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
}
