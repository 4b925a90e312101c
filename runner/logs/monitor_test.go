package logs_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/runner/logs"
)

// The test program is also the process in the container, and a daemon that keeps
// a log until it is killed.
const (
	writerEnv = "BERTH_TEST_WRITER" // lines and bytes per second, 0 for as fast as it can
	keeperEnv = "BERTH_TEST_KEEPER" // directory, bundle, size and files

	forwarderEnv = "BERTH_TEST_FORWARDER" // forwarded as JSON
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(writerEnv) != "":
		var lines, rate int
		_, _ = fmt.Sscan(os.Getenv(writerEnv), &lines, &rate)
		writeLines(lines, rate)
	case os.Getenv(keeperEnv) != "":
		var dir, bundle string
		var o logs.Options
		_, _ = fmt.Sscan(os.Getenv(keeperEnv), &dir, &bundle, &o.MaxSize, &o.MaxFile)
		k := newKeeper()
		k.Watch("x", dir, o, reopener(bundle))
		_, _ = os.Stdout.WriteString("kept\n")
		select {}
	case os.Getenv(forwarderEnv) != "":
		forwarderMain(os.Getenv(forwarderEnv))
	default:
		os.Exit(m.Run())
	}
}

// numbered is line n of what a container writes.
func numbered(n int) string { return strconv.Itoa(n) + strings.Repeat("x", n%150) + "\n" }

func writeLines(lines, rate int) {
	w := bufio.NewWriterSize(os.Stdout, 16<<10)
	start, sum := time.Now(), 0
	for n := range lines {
		k, _ := w.WriteString(numbered(n))
		sum += k
		if rate > 0 && n%100 == 0 {
			time.Sleep(time.Until(start.Add(time.Duration(sum) * time.Second / time.Duration(rate))))
		}
	}
	_ = w.Flush()
}

// monitor is a conmon whose runtime starts a process of the host.
type monitor struct {
	t      *testing.T
	bundle string
	log    string
	exit   string
	pid    int
}

func startMonitor(t *testing.T, o logs.Options, script string) *monitor {
	t.Helper()
	m := newMonitor(t)
	m.start(o, script)
	return m
}

func newMonitor(t *testing.T) *monitor {
	t.Helper()
	dir := t.TempDir()
	m := &monitor{t: t, bundle: filepath.Join(dir, "b"), log: filepath.Join(dir, "l"), exit: filepath.Join(dir, "e")}
	for _, name := range []string{m.bundle, m.log, m.exit} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// start runs a shell script in it, in which $SELF is the test program.
func (m *monitor) start(o logs.Options, script string) {
	m.t.Helper()
	runtime := filepath.Join(m.bundle, "runtime")
	text := "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --pid-file) pid=$2 ;; esac; shift; done\nSELF='" + os.Args[0] + "'\n(" + script + "\n) &\necho $! >$pid\n"
	for name, content := range map[string]string{runtime: text, filepath.Join(m.bundle, "config.json"): "{}"} {
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
	pidFile := filepath.Join(m.bundle, "conmon.pid")
	args := []string{
		"--api-version", "1", "-c", "x", "-u", "x", "-n", "x", "-r", runtime, "-b", m.bundle, "-p", filepath.Join(m.bundle, "pid"), "-P", pidFile,
		"--exit-dir", m.exit, "--socket-dir-path", m.bundle, "--full-attach", "--no-sync-log", "-l", "k8s-file:" + filepath.Join(m.log, logs.FileName),
	}
	if limit := o.MonitorLimit(); limit > 0 {
		args = append(args, "--log-size-max", strconv.FormatInt(limit, 10))
	}
	if out, err := exec.CommandContext(m.t.Context(), "conmon", args...).CombinedOutput(); err != nil {
		m.t.Fatalf("conmon: %v: %s", err, out)
	}
	m.await(func() bool {
		text, _ := os.ReadFile(pidFile)
		m.pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return m.pid > 0
	})
	m.t.Cleanup(m.kill)
}

// await waits until something is so.
func (m *monitor) await(ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(deadline) {
			m.t.Fatal("waited too long")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// wait waits until the process has ended and the monitor too.
func (m *monitor) wait() {
	m.t.Helper()
	m.await(func() bool { return syscall.Kill(m.pid, 0) != nil })
	if err := os.Remove(filepath.Join(m.exit, "x")); err != nil {
		m.t.Fatal(err)
	}
}

// kill ends what a failed test leaves.
func (m *monitor) kill() {
	if syscall.Kill(m.pid, 0) != nil {
		return
	}
	text, _ := os.ReadFile(filepath.Join(m.bundle, "pid"))
	if pid, _ := strconv.Atoi(strings.TrimSpace(string(text))); pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	m.await(func() bool { return syscall.Kill(m.pid, 0) != nil })
}

// reopener asks conmon for a new log.
func reopener(bundle string) func(context.Context) error {
	return func(context.Context) error {
		f, err := os.OpenFile(filepath.Join(bundle, "ctl"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("2 0 0\n")
		f.Close()
		return err
	}
}

// size is what the log takes on the disk.
func (m *monitor) size() (sum int64) {
	m.t.Helper()
	names, err := os.ReadDir(m.log)
	if err != nil {
		m.t.Fatal(err)
	}
	seen := make(map[uint64]bool)
	for _, name := range names {
		fi, err := os.Lstat(filepath.Join(m.log, name.Name()))
		if err != nil {
			continue // renamed just now
		}
		st := fi.Sys().(*syscall.Stat_t)
		if !seen[st.Ino] {
			seen[st.Ino] = true
			sum += fi.Size()
		}
	}
	return sum
}

// wantTail checks that text is the last lines of all, whole and in order, and
// returns how many. Of the first only the end may be there, if others are gone:
// its beginning was in a file that is.
func wantTail(t *testing.T, text string, lines int) int {
	t.Helper()
	n := strings.Count(text, "\n")
	if n == 0 || n > lines {
		t.Fatalf("%d lines of %d", n, lines)
	}
	for i, got := range strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n") {
		want := numbered(lines - n + i)
		if i == 0 && n < lines && strings.HasSuffix(want, got) {
			continue
		}
		if got != want && got+"\n" != want {
			t.Fatalf("line %d of %d is %.20q, want %.20q", i, n, got, want)
		}
	}
	return n
}

// safe is a buffer that two goroutines use.
type safe struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
