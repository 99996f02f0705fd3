package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgtrove/pgtrove/test/pgtest"
)

// measurement is one run of a program.
type measurement struct {
	wall, cpu time.Duration
	peak      memory  // of the largest process: all of pgtrove, but only one of pgBackRest's
	others    float64 // cores that other work on the machine kept busy meanwhile, the server's included
	growth    int64   // bytes by which the repository grew on disk
	stdout    string
}

// measure runs cmd, which must end with one of the exit codes.
func measure(b *bench, cmd *exec.Cmd, repository string, codes ...int) measurement {
	before := dirSize(b, repository)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	busy, start := machineCPU(b), time.Now()
	b.must(cmd.Start())
	stop, peak := make(chan struct{}), make(chan memory)
	go func() { peak <- watchMemory(cmd.Process.Pid, stop) }()
	err := cmd.Wait()
	wall := time.Since(start)
	busy = machineCPU(b) - busy
	close(stop)
	m := measurement{wall: wall, peak: <-peak, stdout: stdout.String(), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	m.others = max((busy-m.cpu).Seconds()/wall.Seconds(), 0)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.Fatal(err)
	}
	if !slices.Contains(codes, pgtest.ExitCode(cmd.ProcessState)) {
		b.Fatalf("%s: exit code %d\n%s%s", strings.Join(cmd.Args, " "), pgtest.ExitCode(cmd.ProcessState), &stdout, &stderr)
	}
	m.growth = dirSize(b, repository) - before
	return m
}

// memory is the peak of a process's resident memory, in bytes. own leaves out
// what is mapped from files: the local cache, which the kernel drops when it
// needs the room.
type memory struct{ all, own int64 }

// watchMemory returns the largest peaks among a process and its children. The
// kernel keeps the peak of all, so only a growth within the last interval is
// missed; own is as it was seen. (Rusage is no use: there a child begins with
// the peak of the program that started it.)
func watchMemory(pid int, stop <-chan struct{}) memory {
	var peak memory
	look := func(pid int) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // gone: it says nothing
		peak.all = max(peak.all, statusBytes(text, "VmHWM:"))
		peak.own = max(peak.own, statusBytes(text, "RssAnon:"))
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		look(pid)
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		for word := range strings.FieldsSeq(string(children)) {
			if child, err := strconv.Atoi(word); err == nil {
				look(child)
			}
		}
		select {
		case <-stop:
			return peak
		case <-tick.C:
		}
	}
}

// statusBytes reads a line of /proc/<pid>/status, 0 where it is not there.
func statusBytes(text []byte, name string) int64 {
	_, rest, _ := strings.Cut(string(text), name)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(fields[0], 10, 64)
	return n << 10
}

// machineCPU is the time that the machine's processors were busy since it was
// started.
func machineCPU(b *bench) time.Duration {
	text, err := os.ReadFile("/proc/stat")
	b.must(err)
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64
	for i, word := range strings.Fields(line) { // cpu user nice system idle iowait irq softirq steal guest...
		n, _ := strconv.ParseInt(word, 10, 64)
		if i > 0 && i < 9 && i != 4 && i != 5 {
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
}

// median leaves values as they are. Of an even number it is the mean of the
// two in the middle.
func median[T int64 | float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// column collects one value of each item.
func column[E any, T any](items []E, of func(E) T) []T {
	out := make([]T, len(items))
	for i, item := range items {
		out[i] = of(item)
	}
	return out
}
