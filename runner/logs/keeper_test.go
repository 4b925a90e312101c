package logs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs"
)

func newKeeper() *logs.Keeper { return logs.NewKeeper(slog.New(slog.NewTextHandler(os.Stderr, nil))) }

// TestBytes has a container write all bytes, long lines and no end of a line.
func TestBytes(t *testing.T) {
	var want bytes.Buffer
	for i := range 200_000 {
		want.WriteByte(byte(i * i / 7))
	}
	want.WriteString(strings.Repeat("y", 100_000) + "\nlast")
	file := filepath.Join(t.TempDir(), "bytes")
	if err := os.WriteFile(file, want.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	o := logs.Options{MaxSize: -1}
	m := startMonitor(t, o, "cat "+file+"; cat "+file+" >&2")
	m.wait()
	out, errs := read(t, m.log, all)
	if out != want.String() || errs != want.String() {
		t.Errorf("%d and %d bytes, want %d of each; or others", len(out), len(errs), want.Len())
	}
	last := all
	last.Tail = 1
	if out, _ := read(t, m.log, last); out != "" && out != "last" {
		t.Errorf("the last line is %.30q", out)
	}
	// A second run goes on in the same file.
	m.start(o, "echo; echo again")
	m.wait()
	if out, _ := read(t, m.log, all); out != want.String()+"\nagain\n" {
		t.Errorf("after a second run %d bytes", len(out))
	}
}

// TestBounds writes far more than the bound, as fast as it can and slowly.
func TestBounds(t *testing.T) {
	for _, test := range []struct {
		size  int64
		files int
		lines int
		rate  int
	}{
		{100_000, 3, 40_000, 0},
		{50_000, 3, 100_000, 0},
		{100_000, 1, 40_000, 0},
		{1_000_000, 3, 1_500_000, 0},   // more than the monitor's own bound
		{20_000, 4, 20_000, 2_000_000}, // many small files
	} {
		t.Run(fmt.Sprintf("%dx%d of %d at %d", test.size, test.files, test.lines, test.rate), func(t *testing.T) {
			t.Parallel()
			o := logs.Options{MaxSize: test.size, MaxFile: test.files}
			k := newKeeper()
			defer k.Close()
			m := startMonitor(t, o, fmt.Sprintf("exec env %s='%d %d' $SELF", writerEnv, test.lines, test.rate))
			k.Watch("x", m.log, o, reopener(m.bundle))
			m.wait()
			k.Unwatch("x")
			limit := test.size * int64(test.files)
			if size := m.size(); size > limit+limit/8 || size < limit/3 {
				t.Errorf("%d bytes are left", size)
			}
			out, _ := read(t, m.log, all)
			n := wantTail(t, out, test.lines)
			t.Logf("%d lines, %d bytes", n, m.size())
			last := all
			last.Tail = 500
			out, _ = read(t, m.log, last)
			if got := wantTail(t, out, test.lines); got != min(500, n) {
				t.Errorf("the last 500 lines are %d", got)
			}
		})
	}
}

// writer is the script that has the test program write lines.
func writer(lines, rate int) string {
	return fmt.Sprintf("exec env %s='%d %d' $SELF", writerEnv, lines, rate)
}

// TestRotatesWhileRunning has a container that goes on after it has written less
// than the monitor's own bound.
func TestRotatesWhileRunning(t *testing.T) {
	const lines = 30_000
	o := logs.Options{MaxSize: 100_000, MaxFile: 3}
	k := newKeeper()
	defer k.Close()
	m := newMonitor(t)
	k.Watch("x", m.log, o, reopener(m.bundle))
	m.start(o, fmt.Sprintf("env %s='%d 0' $SELF; while [ ! -e %s/go ]; do sleep 0.05; done; echo more", writerEnv, lines, m.bundle))
	last := all
	last.Tail = 1
	m.await(func() bool {
		out, _ := read(t, m.log, last)
		return out == numbered(lines-1)
	})
	m.await(func() bool { return m.size() < 340_000 })
	if err := os.WriteFile(filepath.Join(m.bundle, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.wait()
	k.Unwatch("x")
	out, _ := read(t, m.log, all)
	out, ok := strings.CutSuffix(out, "more\n")
	if n := wantTail(t, out, lines); !ok || n < 1000 {
		t.Errorf("%d lines are left, and more: %v", n, ok)
	}
}

// TestFollow follows from before the first line, through many files.
func TestFollow(t *testing.T) {
	const lines = 200_000
	o := logs.Options{MaxSize: 1_000_000, MaxFile: 5}
	k := newKeeper()
	defer k.Close()
	m := newMonitor(t)
	k.Watch("x", m.log, o, reopener(m.bundle))
	follow := all
	follow.Follow = true
	ended := make(chan struct{})
	done := make(chan error, 1)
	var out safe
	go func() {
		done <- logs.Copy(t.Context(), m.log, follow, nil, ended, false, runner.Streams{Stdout: &out, Stderr: io.Discard})
	}()
	m.start(o, writer(lines, 8_000_000))
	m.await(func() bool { return strings.HasPrefix(out.String(), numbered(0)) }) // while it runs
	m.wait()
	k.Unwatch("x")
	close(ended)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := wantTail(t, out.String(), lines); n != lines {
		t.Errorf("%d lines of %d", n, lines)
	}
	if size := m.size(); size > 6_000_000 {
		t.Errorf("%d bytes are left", size)
	}
	if left, err := filepath.Glob(filepath.Join(m.log, "ctr.log.*")); len(left) < 3 || err != nil {
		t.Errorf("it was not rotated: %v", left)
	}
}

// TestFollowRemoved has the log removed under a follower.
func TestFollowRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeLog(t, dir, "ctr.log", line(1, "stdout", "F", "x"))
	follow := all
	follow.Follow = true
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- logs.Copy(t.Context(), dir, follow, nil, make(chan struct{}), false, runner.Streams{Stdout: pw})
	}()
	if _, err := pr.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(logs.Remove(dir), os.Remove(dir)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestUnattended writes without a Keeper: the monitor's bound holds, and what is
// left is then made to fit.
func TestUnattended(t *testing.T) {
	const lines = 500_000
	o := logs.Options{MaxSize: 100_000, MaxFile: 3}
	m := startMonitor(t, o, writer(lines, 0))
	m.wait()
	if size := m.size(); size > 3*o.MonitorLimit() || size == 0 {
		t.Errorf("%d bytes are left", size)
	}
	out, _ := read(t, m.log, all)
	before := wantTail(t, out, lines)
	if err := logs.Settle(m.log, o); err != nil {
		t.Fatal(err)
	}
	if size := m.size(); size > 340_000 {
		t.Errorf("%d bytes are left", size)
	}
	out, _ = read(t, m.log, all)
	if after := wantTail(t, out, lines); after < min(before, 1000) {
		t.Errorf("%d lines of %d", after, before)
	}
	if err := logs.Remove(m.log); err != nil || m.size() != 0 {
		t.Errorf("%d bytes after the log was removed, %v", m.size(), err)
	}
}

// TestKeeperKilled kills the process that keeps a log again and again.
func TestKeeperKilled(t *testing.T) {
	const lines = 300_000
	o := logs.Options{MaxSize: 200_000, MaxFile: 3}
	m := startMonitor(t, o, writer(lines, 10_000_000))
	kills := 0
	for alive := true; alive; kills++ {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %d", keeperEnv, m.log, m.bundle, o.MaxSize, o.MaxFile))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		// At a different point of its work each time.
		time.Sleep(time.Duration(kills*7%120) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		_, err = os.Stat(filepath.Join(m.exit, "x"))
		alive = err != nil
	}
	m.wait()
	if err := logs.Settle(m.log, o); err != nil {
		t.Fatal(err)
	}
	out, _ := read(t, m.log, all)
	n := wantTail(t, out, lines)
	t.Logf("%d kills, %d lines, %d bytes", kills, n, m.size())
	if size := m.size(); size > 700_000 || size < 200_000 {
		t.Errorf("%d bytes are left", size)
	}
}

// TestInterrupted has what a Keeper leaves when it is killed between two steps.
func TestInterrupted(t *testing.T) {
	const want = "a\nb\nc\nd\n"
	a, b, c, d := line(1, "stdout", "F", "a"), line(2, "stdout", "F", "b"), line(3, "stdout", "F", "c"), line(4, "stdout", "F", "d")
	link := func(dir, from, to string) error { return os.Link(filepath.Join(dir, from), filepath.Join(dir, to)) }
	for name, prepare := range map[string]func(dir string) error{
		"nothing kept yet": func(dir string) error {
			writeLog(t, dir, "ctr.log", a, b, c, d)
			return nil
		},
		"a next one without its other name": func(dir string) error {
			writeLog(t, dir, "ctr.log", a, b, c, d)
			writeLog(t, dir, "ctr.log.next")
			return link(dir, "ctr.log", "ctr.log.1")
		},
		"gone on to the next one": func(dir string) error {
			writeLog(t, dir, "ctr.log.7", a, b)
			writeLog(t, dir, "ctr.log.next", c, d)
			return link(dir, "ctr.log.next", "ctr.log")
		},
		"gone on twice": func(dir string) error {
			writeLog(t, dir, "ctr.log.7", a)
			writeLog(t, dir, "ctr.log.next", b, c)
			writeLog(t, dir, "ctr.log", d)
			return nil
		},
		"gone on twice, the first number given": func(dir string) error {
			writeLog(t, dir, "ctr.log.7", a, b)
			writeLog(t, dir, "ctr.log.8", c)
			writeLog(t, dir, "ctr.log", d)
			return link(dir, "ctr.log.8", "ctr.log.next")
		},
		"shortened, the whole one still there": func(dir string) error {
			writeLog(t, dir, "ctr.log.7", line(0, "stdout", "F", "cut off"), a)
			writeLog(t, dir, fmt.Sprintf("ctr.log.7-%d", len(line(0, "stdout", "F", "cut off"))), a)
			writeLog(t, dir, "ctr.log", b, c, d)
			return nil
		},
		"being shortened": func(dir string) error {
			writeLog(t, dir, "ctr.log.7", a, b)
			writeLog(t, dir, "ctr.log.cut", b)
			writeLog(t, dir, "ctr.log", c, d)
			return nil
		},
		"the monitor killed between its steps": func(dir string) error {
			writeLog(t, dir, "ctr.log.7", a, b, c, d)
			writeLog(t, dir, "ctr.log.tmp")
			return link(dir, "ctr.log.7", "ctr.log")
		},
	} {
		dir := t.TempDir()
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		if got, _ := read(t, dir, all); got != want {
			t.Errorf("%s: at first %q", name, got)
		}
		for range 2 {
			if err := logs.Settle(dir, logs.Options{MaxSize: 1 << 20, MaxFile: 2}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got, _ := read(t, dir, all); got != want {
				t.Errorf("%s: then %q", name, got)
			}
		}
		for _, left := range []string{"ctr.log.cut", "ctr.log.7-55"} {
			if _, err := os.Lstat(filepath.Join(dir, left)); err == nil {
				t.Errorf("%s: %s is left", name, left)
			}
		}
	}
}

// TestWatchAndClose watches many idle logs, changes options, and ends.
func TestWatchAndClose(t *testing.T) {
	k := newKeeper()
	o := logs.Options{MaxSize: 1000, MaxFile: 2}
	never := func(context.Context) error { return errors.New("not asked") }
	dir := t.TempDir()
	for i := range 300 {
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		k.Watch(fmt.Sprint(i), name, o, never)
		k.Watch(fmt.Sprint(i), name, o, never)
	}
	for i := range 150 {
		k.Unwatch(fmt.Sprint(i))
		k.Unwatch(fmt.Sprint(i))
	}
	k.Close()
	if files, _ := filepath.Glob(filepath.Join(dir, "*/*")); len(files) != 0 {
		t.Errorf("logs of nothing: %v", files)
	}
}
