package stats

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// group makes a cgroup in all hierarchies that are read, for the test's life.
func group(tb testing.TB, s *Sampler, name string) string {
	tb.Helper()
	path := fmt.Sprintf("/berth-test-stats-%d/%s", os.Getpid(), name)
	for _, mount := range mounts(s) {
		dir := filepath.Join(mount, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			for range 200 { // the kernel counts for a moment those that have ended
				if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
					_ = unix.Rmdir(filepath.Dir(dir)) // the last one of the test removes it
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			tb.Errorf("cgroup %s is left", dir)
		})
	}
	return path
}

func mounts(s *Sampler) []string {
	var all []string
	for _, src := range s.sources {
		if !slices.Contains(all, src.mount) {
			all = append(all, src.mount)
		}
	}
	return all
}

// run runs a shell's script in a cgroup, and with no network but the loopback. It has
// files from 3 on.
func run(tb testing.TB, s *Sampler, path, script string, files ...*os.File) (pid int, kill func()) {
	tb.Helper()
	cmd := exec.Command("sh", "-c", "read -r _; "+script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWNET}
	cmd.ExtraFiles = files
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	tb.Cleanup(kill)
	for _, mount := range mounts(s) {
		if err := os.WriteFile(filepath.Join(mount, path, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	if _, err := stdin.Write([]byte("go\n")); err != nil {
		tb.Fatal(err)
	}
	return cmd.Process.Pid, kill
}

func open(tb testing.TB) *Sampler {
	tb.Helper()
	s, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// watch watches the container "id", which is always sampled.
func watch(t *testing.T, s *Sampler, find func() (Target, bool)) *Reader {
	t.Helper()
	return s.Watch("id", Subject{Find: find, Failed: func(err error) { t.Error(err) }})
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in 10 s it did not come to this: %s", what)
		}
	}
}

func next(t *testing.T, r *Reader) *container.StatsResponse {
	t.Helper()
	select {
	case sample := <-r.C:
		if sample == nil {
			t.Fatal("the reader has ended")
		}
		return sample
	case <-time.After(10 * time.Second):
		t.Fatal("no sample in 10 s")
		return nil
	}
}

// TestShort has processes that end long before the kernel's next tick: what they
// have used counts.
func TestShort(t *testing.T) {
	s := open(t)
	path := group(t, s, "short")
	var before uint64
	for i := range 20 {
		_, kill := run(t, s, path, "exit")
		kill()
		sample, err := s.Read(Target{Cgroup: path})
		if err != nil {
			t.Fatal(err)
		}
		total := sample.CPUStats.CPUUsage.TotalUsage
		if total <= before {
			t.Errorf("process %d has used nothing: %d ns of all", i, total)
		}
		before = total
	}
}

func TestWatch(t *testing.T) {
	s, before := open(t), openFiles(t)
	path := group(t, s, "busy")
	pid, kill := run(t, s, path, "x=$(head -c 1000000 /dev/zero | tr '\\0' x); while :; do :; done")
	var runs atomic.Bool
	runs.Store(true)
	find := func() (Target, bool) { return Target{Cgroup: path, PID: pid}, runs.Load() }
	a, b := watch(t, s, find), watch(t, s, find)
	defer b.Close()
	first, other := next(t, a), next(t, b)
	if first != other {
		t.Error("two readers get a sample each")
	}
	begin := time.Now()
	second := next(t, a)
	if second != next(t, b) {
		t.Error("two readers get a second sample each")
	}
	if took := time.Since(begin); took < spacing/2 || took > 3*interval {
		t.Errorf("the next sample came after %v", took)
	}
	used, had := second.CPUStats.CPUUsage.TotalUsage-first.CPUStats.CPUUsage.TotalUsage, second.Read.Sub(first.Read)
	if used < uint64(had)/20 || used > uint64(had)*2 {
		t.Errorf("a busy loop used %v of %v", time.Duration(used), had)
	}
	if all := second.CPUStats.SystemUsage - first.CPUStats.SystemUsage; all < uint64(had)/2 || second.CPUStats.OnlineCPUs == 0 {
		t.Errorf("%d processors had %v in %v", second.CPUStats.OnlineCPUs, time.Duration(all), had)
	}
	if m := second.MemoryStats; m.Usage == 0 || m.Limit == 0 || m.Limit > s.memory || len(m.Stats) < 10 {
		t.Errorf("memory: %+v", m)
	}
	if second.PidsStats.Current != 1 || second.Networks != nil {
		t.Errorf("%d processes, interfaces: %v", second.PidsStats.Current, second.Networks)
	}

	// It ends, and starts again: nothing is open of the end, and the readers go on.
	kill()
	runs.Store(false)
	s.Stopped("id")
	for !next(t, a).Read.IsZero() { // one may have been on its way
	}
	if n := openFiles(t) - before; n != 0 {
		t.Errorf("%d files of the container that ended are open", n)
	}
	pid, _ = run(t, s, path, "exec sleep 60")
	runs.Store(true)
	for next(t, a).PidsStats.Current == 0 {
	}

	// Who leaves is told nothing more; with the last one the files are closed.
	a.Close()
	a.Close()
	b.Close()
	if n := openFiles(t) - before; n != 0 {
		t.Errorf("%d files are open that nobody reads", n)
	}
}

// openFiles counts the files of cgroups and interfaces that this process has open,
// of which Go itself has some.
func openFiles(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		to, err := os.Readlink(link)
		if err == nil && (filepath.Base(to) == "dev" || strings.HasPrefix(to, cgroupRoot+"/")) {
			n++
		}
	}
	return n
}

// A reader that does not listen gets the latest sample when it does, and holds
// nobody back.
func TestSlowReader(t *testing.T) {
	s := open(t)
	path := group(t, s, "slow")
	pid, _ := run(t, s, path, "exec sleep 60")
	find := func() (Target, bool) { return Target{Cgroup: path, PID: pid}, true }
	slow, quick := watch(t, s, find), watch(t, s, find)
	defer slow.Close()
	defer quick.Close()
	next(t, quick)
	last := next(t, quick)
	next(t, quick) // of this one the slow one may not have heard yet
	if got := next(t, slow); got.Read.Before(last.Read) {
		t.Errorf("the slow one has a sample of %v, and not of %v", got.Read, last.Read)
	}
}

func TestGone(t *testing.T) {
	s := open(t)
	if _, err := s.Read(Target{Cgroup: "/berth-test-stats-none"}); err == nil {
		t.Error("a cgroup that is not there was sampled")
	}
	var why error
	r := s.Watch("id", Subject{
		Find:   func() (Target, bool) { return Target{Cgroup: "/berth-test-stats-none"}, true },
		Failed: func(err error) { why = err },
	})
	if !next(t, r).Read.IsZero() || !errors.Is(why, ErrGone) {
		t.Errorf("so it was for a reader: %v", why)
	}
	s.mu.Lock()
	s.end("id", s.watched["id"])
	s.mu.Unlock()
	if _, ok := <-r.C; ok {
		t.Error("a reader of a sampler that was closed gets a sample")
	}
	r.Close()
}

// Without room for open files each sample opens its own.
func TestFewFiles(t *testing.T) {
	s, before := open(t), openFiles(t)
	s.keep = 0
	path := group(t, s, "few")
	pid, _ := run(t, s, path, "exec sleep 60")
	r := watch(t, s, func() (Target, bool) { return Target{Cgroup: path, PID: pid}, true })
	defer r.Close()
	for range 2 {
		if next(t, r).PidsStats.Current != 1 {
			t.Error("a sample is empty")
		}
	}
	if n := openFiles(t) - before; n != 0 {
		t.Errorf("%d files are open", n)
	}
}

// Version 2 is read from the hierarchy that hosts with version 1 have beside it,
// as far as that counts.
func TestVersion2(t *testing.T) {
	s := open(t)
	for _, mount := range []string{cgroupRoot, cgroupRoot + "/unified"} {
		if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
			s.sources = version2(mount)
			path := group(t, s, "unified")
			pid, _ := run(t, s, path, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; exec sleep 60")
			for range 1000 {
				sample, err := s.Read(Target{Cgroup: path, PID: pid})
				if err != nil {
					t.Fatal(err)
				}
				if u := sample.CPUStats.CPUUsage; u.TotalUsage > 0 && u.UsageInUsermode+u.UsageInKernelmode <= u.TotalUsage+uint64(time.Millisecond) {
					return
				}
			}
			t.Fatal("a busy loop used nothing")
		}
	}
	t.Fatal("this host has no cgroups of version 2")
}

// BenchmarkRound samples 1,000 containers once, as the loop does every second.
func BenchmarkRound(b *testing.B) {
	s := open(b)
	const containers = 1000
	s.keep = containers
	var list []*watched
	for i := range containers {
		path := group(b, s, strconv.Itoa(i))
		target := Target{Cgroup: path, PID: os.Getpid(), Limits: &container.Resources{}}
		w := &watched{kept: true, Subject: Subject{Find: func() (Target, bool) { return target, true }, Failed: func(err error) { b.Error(err) }}}
		list = append(list, w)
		b.Cleanup(w.finish)
	}
	var buf []byte
	b.ReportAllocs()
	before := used(b)
	for b.Loop() {
		var now system
		now, buf = readSystem(buf)
		for _, w := range list {
			w.taken = time.Time{}
			if w.sample(s, now, &buf).Read.IsZero() {
				b.Fatal("a sample is empty")
			}
		}
	}
	b.ReportMetric(float64((used(b)-before).Nanoseconds())/float64(b.N)/containers, "cpu-ns/container")
}

// used is the processor time of this process.
func used(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
