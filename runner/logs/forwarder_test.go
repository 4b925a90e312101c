package logs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs"
)

// forwarder is one with its Keeper and the directory of what is left.
type forwarder struct {
	*logs.Forwarder
	keeper *logs.Keeper
	left   string
	said   *safe
}

func newForwarder(t testing.TB, left string) *forwarder {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(left, &fs); err != nil || fs.Bavail < fs.Blocks/15 {
		t.Fatalf("a disk that is nearly full has what is not sent cut: free a tenth of that of %s (%v)", left, err)
	}
	f := &forwarder{left: left, said: &safe{}}
	log := slog.New(slog.NewTextHandler(f.said, nil))
	f.keeper = logs.NewKeeper(log)
	var err error
	if f.Forwarder, err = logs.NewForwarder(log, f.keeper, left); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *forwarder) close() {
	f.Close()
	f.keeper.Close()
}

// sent are the options of a log that goes to a server.
func sent(t testing.TB, driver string, config map[string]string, more ...string) logs.Options {
	t.Helper()
	for _, m := range more {
		name, value, _ := strings.Cut(m, "=")
		config[name] = value
	}
	o, err := logs.ParseOptions(container.LogConfig{Type: driver, Config: config}, logs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// logOf is the log of a container.
func logOf(id, dir string, o logs.Options) logs.Log {
	return logs.Log{ID: id, Dir: dir, Options: o, Source: o.Source(logs.Container{ID: id, Name: id})}
}

// TestForwardFlood sends what a container writes as fast as it can, through many
// files that are removed and compressed as soon as they are sent.
func TestForwardFlood(t *testing.T) {
	t.Parallel()
	const lines = 400_000
	s := newSyslogServer(t)
	o := sent(t, "syslog", s.config(), "cache-max-size=500k", "cache-max-file=3")
	f := newForwarder(t, t.TempDir())
	defer f.close()
	m := newMonitor(t)
	if err := f.Begin(t.Context(), logOf("x", m.log, o)); err != nil {
		t.Fatal(err)
	}
	f.keeper.Watch("x", m.log, o, reopener(m.bundle))
	m.start(o, writer(lines, 0))
	m.wait()
	f.keeper.Unwatch("x")
	f.End("x")
	await(t, func() error {
		if n := len(s.received()); n < lines {
			return fmt.Errorf("%d lines of %d", n, lines)
		}
		return nil
	})
	if err := inOrder(s.received(), lines, 0); err != nil {
		t.Error(err)
	}
	await(t, func() error {
		if size := m.size(); size > 4_000_000 { // of more than 30 MB; files that were not sent yet when the monitor ended included
			return fmt.Errorf("%d bytes are left", size)
		}
		return nil
	})
	out, _ := read(t, m.log, all)
	wantTail(t, out, lines)
	if strings.Contains(f.said.String(), "WARN") {
		t.Error(f.said)
	}
}

// TestForwardOutages has a server that hangs, ends with what it has not read, and
// comes back.
func TestForwardOutages(t *testing.T) {
	t.Parallel()
	const lines = 60_000
	s := newSyslogServer(t)
	o := sent(t, "syslog", s.config(), "cache-max-size=200k", "cache-max-file=2")
	f := newForwarder(t, t.TempDir())
	defer f.close()
	m := newMonitor(t)
	if err := f.Begin(t.Context(), logOf("x", m.log, o)); err != nil {
		t.Fatal(err)
	}
	f.keeper.Watch("x", m.log, o, reopener(m.bundle))
	m.start(o, writer(lines, 4_000_000))
	for range 3 {
		n := len(s.received())
		await(t, func() error {
			if len(s.received()) < n+2000 {
				return fmt.Errorf("%d lines", len(s.received()))
			}
			return nil
		})
		s.hold.Lock()
		time.Sleep(100 * time.Millisecond) // the buffers of the kernel fill
		s.l.Close()
		for c := range s.conns {
			c.Close()
		}
		s.hold.Unlock()
		s.work.Wait()
		s.start()
	}
	m.wait()
	f.keeper.Unwatch("x")
	f.End("x")
	await(t, func() error { return inOrder(s.received(), lines, 3) })
	if strings.Contains(f.said.String(), "a part of") {
		t.Error(f.said)
	}
	if n := len(s.received()); n > 5*lines {
		t.Errorf("%d lines have come for %d", n, lines)
	}
}

// TestForwarderKilled kills the process that sends again and again, and the server
// does not answer now and then.
func TestForwarderKilled(t *testing.T) {
	t.Parallel()
	const lines = 100_000
	s := newFluentServer(t)
	config := s.config()
	o := sent(t, "fluentd", config, "cache-max-size=200k", "cache-max-file=2")
	m := startMonitor(t, o, writer(lines, 8_000_000))
	kills := 0
	for alive := true; alive; kills++ {
		text, err := json.Marshal(forwarded{m.log, m.bundle, config})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), forwarderEnv+"="+string(text))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(kills*17%150) * time.Millisecond) // at a different point of its work each time
		s.mu.Lock()
		s.deaf = kills % 3
		s.mu.Unlock()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		_, err = os.Stat(filepath.Join(m.exit, "x"))
		alive = err != nil
	}
	m.wait()
	f := newForwarder(t, t.TempDir())
	defer f.close()
	if err := f.Adopt(logOf("x", m.log, o), true); err != nil {
		t.Fatal(err)
	}
	await(t, func() error { return inOrder(s.lines("stdout"), lines, 4*kills) })
	t.Logf("%d kills, %d lines", kills, len(s.lines("stdout")))
}

// forwarded is what a process is to send.
type forwarded struct {
	Log, Bundle string
	Config      map[string]string
}

// forwarderMain is a daemon that sends a log until it is killed.
func forwarderMain(text string) {
	var what forwarded
	if err := json.Unmarshal([]byte(text), &what); err != nil {
		panic(err)
	}
	o, err := logs.ParseOptions(container.LogConfig{Type: "fluentd", Config: what.Config}, logs.Options{})
	if err != nil {
		panic(err)
	}
	k := newKeeper()
	f, err := logs.NewForwarder(slog.New(slog.DiscardHandler), k, what.Bundle+"/left")
	if err != nil {
		panic(err)
	}
	k.Watch("x", what.Log, o, reopener(what.Bundle))
	if err := f.Adopt(logOf("x", what.Log, o), false); err != nil {
		panic(err)
	}
	select {}
}

// TestForwardBytes sends random output of both streams, in pieces of all sizes, and
// compares it with what is read here.
func TestForwardBytes(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newFluentServer(t)
	o := sent(t, "fluentd", s.config())
	f := newForwarder(t, t.TempDir())
	defer f.close()
	for i := range 30 {
		dir := t.TempDir()
		randomLog(t, r, dir)
		if r.IntN(2) == 0 {
			writeLog(t, dir, "ctr.log", strings.Repeat(line(1, "stderr", "P", strings.Repeat("z", 8192)), r.IntN(20)), "no line\n", line(1, "stdout", "F", ""))
		}
		s.mu.Lock()
		s.records = nil
		s.mu.Unlock()
		if err := f.Adopt(logOf(fmt.Sprint(i), dir, o), true); err != nil {
			t.Fatal(err)
		}
		out, errs := read(t, dir, all)
		await(t, func() error {
			for source, want := range map[string]string{"stdout": out, "stderr": errs} {
				if got := strings.Join(s.lines(source), ""); got != want && got != want+"\n" {
					return fmt.Errorf("%s is %d bytes, want %d", source, len(got), len(want))
				}
			}
			return nil
		})
		for _, r := range s.records {
			if len(r["log"].(string)) > 32<<10 {
				t.Errorf("a record of %d bytes", len(r["log"].(string)))
			}
		}
	}
}

// TestForwardBounds has a server that takes nothing for long: what is kept for it
// is bounded in both modes, and the rest arrives.
func TestForwardBounds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		opts []string
		max  int
	}{
		{[]string{"mode=non-blocking", "max-buffer-size=1m"}, 1 << 20},
		{[]string{"fluentd-buffer-limit=2m"}, 2 << 20},
	} {
		t.Run(test.opts[0], func(t *testing.T) {
			t.Parallel()
			const lines = 120_000 // some 10 MB
			s := newFluentServer(t)
			s.stop()
			o := sent(t, "fluentd", s.config(), append(test.opts, "cache-max-size=300k", "cache-max-file=2", "fluentd-async=true")...)
			f := newForwarder(t, t.TempDir())
			defer f.close()
			m := newMonitor(t)
			if err := f.Begin(t.Context(), logOf("x", m.log, o)); err != nil {
				t.Fatal(err)
			}
			f.keeper.Watch("x", m.log, o, reopener(m.bundle))
			m.start(o, writer(lines, 0))
			m.wait()
			f.keeper.Unwatch("x")
			f.End("x")
			if size := m.size(); size > int64(test.max)*5/4+600_000 {
				t.Errorf("%d bytes are kept", size)
			}
			s.start()
			await(t, func() error {
				if got := s.lines("stdout"); len(got) == 0 || got[len(got)-1] != numbered(lines-1) {
					return fmt.Errorf("%d lines", len(got))
				}
				return nil
			})
			got := strings.Join(s.lines("stdout"), "")
			wantTail(t, got, lines)
			if len(got) > test.max || len(got) < test.max/4 {
				t.Errorf("%d bytes have come", len(got))
			}
			if !strings.Contains(f.said.String(), "a part of a log was not sent") {
				t.Error(f.said)
			}
			await(t, func() error {
				if size := m.size(); size > 700_000 {
					return fmt.Errorf("%d bytes are left", size)
				}
				return nil
			})
		})
	}
}

// TestForwardRetries gives up what could not be sent as often as is said.
func TestForwardRetries(t *testing.T) {
	t.Parallel()
	s := newFluentServer(t)
	s.stop()
	o := sent(t, "fluentd", s.config(), "fluentd-max-retries=2", "fluentd-async=true")
	f := newForwarder(t, t.TempDir())
	defer f.close()
	dir := t.TempDir()
	writeLog(t, dir, "ctr.log", line(1, "stdout", "F", "x"))
	if err := f.Adopt(logOf("x", dir, o), true); err != nil {
		t.Fatal(err)
	}
	await(t, func() error {
		if !strings.Contains(f.said.String(), "a part of a log was not sent") {
			return fmt.Errorf("it is not given up: %s", f.said)
		}
		return nil
	})
}

// TestLeave removes containers whose server is away; what they left arrives when it
// comes, also from another Forwarder, and is removed.
func TestLeave(t *testing.T) {
	t.Parallel()
	s := newFluentServer(t)
	s.stop()
	o := sent(t, "fluentd", s.config(), "fluentd-async=true", "env=E")
	left := t.TempDir()
	f := newForwarder(t, left)
	for i := range 20 {
		dir := filepath.Join(t.TempDir(), "logs")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := f.Begin(t.Context(), logOf(fmt.Sprint("c", i), dir, o)); err != nil {
			t.Fatal(err)
		}
		writeLog(t, dir, "ctr.log", line(1, "stdout", "F", fmt.Sprint("from ", i)), line(1, "stdout", "P", "no end"))
		f.End(fmt.Sprint("c", i))
		if err := f.Leave(fmt.Sprint("c", i)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	f.close()
	if err := os.Mkdir(filepath.Join(left, "half"), 0o700); err != nil { // nobody can know whose it is
		t.Fatal(err)
	}
	f = newForwarder(t, left)
	defer f.close()
	s.start()
	await(t, func() error { return gone(left) })
	got := s.lines("stdout")
	slices.Sort(got)
	if len(slices.Compact(got)) != 21 {
		t.Errorf("%q", got)
	}
	if err := f.Leave("nobody"); err != nil {
		t.Error(err)
	}
}

// TestForwardMany sends the logs of a thousand containers to one server.
func TestForwardMany(t *testing.T) {
	const many = 1000
	s := newSyslogServer(t)
	f := newForwarder(t, t.TempDir())
	defer f.close()
	base := t.TempDir()
	before := runtime.NumGoroutine()
	dirs := make([]string, many)
	for i := range dirs {
		dirs[i] = filepath.Join(base, fmt.Sprint(i))
		if err := os.Mkdir(dirs[i], 0o700); err != nil {
			t.Fatal(err)
		}
		writeLog(t, dirs[i], "ctr.log")
		if err := f.Begin(t.Context(), logOf(fmt.Sprint("c", i), dirs[i], sent(t, "syslog", s.config()))); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		for _, dir := range dirs {
			file, err := os.OpenFile(filepath.Join(dir, "ctr.log"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteString(line(1, "stdout", "F", fmt.Sprint("round ", round))); err != nil {
				t.Fatal(err)
			}
			file.Close()
		}
		await(t, func() error {
			if n := len(s.received()); n != (round+1)*many {
				return fmt.Errorf("%d messages", n)
			}
			return nil
		})
		if n := runtime.NumGoroutine(); n > before+10 {
			t.Errorf("%d goroutines, %d before", n, before)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range many {
		if n := s.tags[fmt.Sprint("c", i)]; n != 3 {
			t.Fatalf("%d messages of c%d", n, i)
		}
	}
}

// TestBeginRefused has servers that cannot be had.
func TestBeginRefused(t *testing.T) {
	t.Parallel()
	f := newForwarder(t, t.TempDir())
	defer f.close()
	const start = "failed to create task for container: failed to initialize logging driver: "
	for i, test := range []struct {
		driver string
		config map[string]string
		want   string
	}{
		{"syslog", map[string]string{"syslog-address": "tcp://127.0.0.1:1"}, start + "dial tcp 127.0.0.1:1: connect: connection refused"},
		{"syslog", map[string]string{"syslog-address": "tcp+tls://127.0.0.1:1", "syslog-tls-ca-cert": "/none"}, start + `could not read CA certificate "/none": open /none: no such file or directory`},
		{"fluentd", map[string]string{"fluentd-address": "unix:///none"}, start + "dial unix /none: connect: no such file or directory"},
	} {
		err := f.Begin(t.Context(), logOf(test.driver+fmt.Sprint(i), t.TempDir(), sent(t, test.driver, test.config)))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s %v: %v", test.driver, test.config, err)
		}
	}
}

// TestPacked reads a log of which most is compressed, and one that is damaged.
func TestPacked(t *testing.T) {
	t.Parallel()
	const lines = 50_000
	o := logs.Options{MaxSize: 500_000, MaxFile: 10, Compress: true}
	k := newKeeper()
	defer k.Close()
	m := newMonitor(t)
	k.Watch("x", m.log, o, reopener(m.bundle))
	m.start(o, writer(lines, 4_000_000))
	m.wait()
	k.Unwatch("x")
	var packed []string
	await(t, func() error {
		packed, _ = filepath.Glob(filepath.Join(m.log, "*.gz"))
		plain, _ := filepath.Glob(filepath.Join(m.log, "ctr.log.[0-9]*[0-9]"))
		if len(packed) < 5 || len(plain) > 1 {
			return fmt.Errorf("%d files are compressed, %d are not", len(packed), len(plain))
		}
		return nil
	})
	out, _ := read(t, m.log, all)
	wantTail(t, out, lines)
	for _, tail := range []int{1, 1000, 20_000} {
		o := all
		o.Tail = tail
		part, _ := read(t, m.log, o)
		if !strings.HasSuffix(out, part) || strings.Count(part, "\n") != tail {
			t.Errorf("the last %d lines are %d", tail, strings.Count(part, "\n"))
		}
	}
	if err := os.Truncate(packed[2], 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packed[3], []byte("no gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged bytes.Buffer
	if err := logs.Copy(t.Context(), m.log, all, nil, nil, false, runner.Streams{Stdout: &damaged}); err != nil || damaged.Len() >= len(out) || damaged.Len() < len(out)/2 {
		t.Errorf("of a damaged log %d bytes of %d, %v", damaged.Len(), len(out), err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.log, "*.tmp")); len(left) > 1 { // the monitor's is there
		t.Errorf("left: %v", left)
	}
}

// TestForwarderClosed has a server that hangs while the Forwarder is closed.
func TestForwarderClosed(t *testing.T) {
	t.Parallel()
	s := newSyslogServer(t)
	s.hold.Lock()
	defer s.hold.Unlock()
	o := sent(t, "syslog", s.config())
	f := newForwarder(t, t.TempDir())
	dir := t.TempDir()
	writeLog(t, dir, "ctr.log", strings.Repeat(line(1, "stdout", "F", strings.Repeat("x", 8000)), 4000)) // more than buffers take
	if err := f.Adopt(logOf("x", dir, o), true); err != nil {
		t.Fatal(err)
	}
	await(t, func() error {
		_, err := os.Stat(filepath.Join(dir, "ctr.log.sent"))
		return err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	closed := make(chan struct{})
	go func() {
		f.close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		t.Error("it waits for its server")
		s.stop()
	}
}
