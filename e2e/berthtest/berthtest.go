// Package berthtest runs the berth binary for tests: the real program, as a
// process of its own, on a port and a data directory of its own.
//
// What it starts ends with the test, and if the test fails its log is printed.
// A program that a test needs and that is not installed fails the test, and says
// how to install it: a test that was skipped proves nothing.
package berthtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startTime = 20 * time.Second // for a server to become ready
	stopTime  = 45 * time.Second // for a server to end after SIGTERM
)

// Options are what a server can be started with.
type Options struct {
	Data string   // directory; empty for a new one
	Env  []string // KEY=VALUE, besides the test's own environment
	Args []string // of berth serve, besides address and data
}

// Server is a berth process.
type Server struct {
	Addr string // host:port
	URL  string // http://host:port
	Data string // directory

	tb   testing.TB
	env  []string
	args []string
	log  log
	proc *process
}

// Start starts a server and waits until it is ready. It is stopped when the test
// ends, which fails if the server does not stop as it should or has panicked.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	if o.Data == "" {
		o.Data = filepath.Join(tb.TempDir(), "data")
	}
	s := &Server{Addr: FreeAddr(tb), Data: o.Data, env: o.Env, args: o.Args, tb: tb}
	s.URL = "http://" + s.Addr
	tb.Cleanup(s.end)
	s.Restart()
	return s
}

// Setenv sets KEY=VALUE for the next Restart.
func (s *Server) Setenv(env string) { s.env = append(s.env, env) }

// Port is the port of Addr.
func (s *Server) Port() string {
	_, port, _ := net.SplitHostPort(s.Addr) // FreeAddr made it
	return port
}

// Pid is the process's id.
func (s *Server) Pid() int { return s.proc.cmd.Process.Pid }

// Log returns what the server has logged since Start.
func (s *Server) Log() string { return s.log.String() }

// Restart starts the server again on its address and data, and waits until it is
// ready. It must have been stopped or killed.
func (s *Server) Restart() {
	s.tb.Helper()
	p, err := s.launch(s.Addr, s.Data)
	if err != nil {
		s.tb.Fatalf("start berth: %v", err)
	}
	s.proc = p
	ready := func() bool {
		res, err := http.Get(s.URL + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
	for deadline := time.Now().Add(startTime); !ready(); {
		select {
		case <-p.done:
			s.tb.Fatalf("berth ended before it was ready: %v", p.err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("berth is not ready after %v", startTime)
		}
	}
}

// RunSecond runs another server on the same data, and returns how it ended and
// what it wrote. It fails the test if that server is still there after a time in
// which it should have refused to start.
func (s *Server) RunSecond() (exitCode int, output string) {
	s.tb.Helper()
	second := &Server{tb: s.tb, env: s.env}
	p, err := second.launch(FreeAddr(s.tb), s.Data)
	if err != nil {
		s.tb.Fatalf("start a second berth: %v", err)
	}
	if err := p.wait(startTime); err != nil {
		_ = p.cmd.Process.Kill()
		s.tb.Fatalf("a second berth on the same data goes on running")
	}
	return p.cmd.ProcessState.ExitCode(), second.log.String()
}

// Stop ends the server with SIGTERM, and fails the test unless it exits with 0.
func (s *Server) Stop() {
	s.tb.Helper()
	p := s.proc
	s.proc = nil
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // if it has ended, wait tells
	if err := p.wait(stopTime); err != nil {
		_ = p.cmd.Process.Kill()
		s.tb.Errorf("berth goes on running %v after SIGTERM", stopTime)
		return
	}
	if p.err != nil {
		s.tb.Errorf("berth ended with %v after SIGTERM", p.err)
	}
}

// Kill ends the server with SIGKILL.
func (s *Server) Kill() {
	s.tb.Helper()
	p := s.proc
	s.proc = nil
	_ = p.cmd.Process.Kill() // if it has ended, wait tells
	if err := p.wait(stopTime); err != nil {
		s.tb.Fatal("berth goes on running after SIGKILL")
	}
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		s.tb.Fatalf("berth ended before SIGKILL: %v", p.err)
	}
}

// Resident is how many bytes of memory the server has resident.
func (s *Server) Resident() int64 {
	s.tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.Pid()))
	if err != nil {
		s.tb.Fatalf("read the server's memory: %v", err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		s.tb.Fatalf("read the server's memory: %v", err)
	}
	return pages * int64(os.Getpagesize())
}

func (s *Server) end() {
	if s.proc != nil {
		s.Stop()
	}
	text := s.Log()
	for _, sign := range []string{"panic", "goroutine ", "DATA RACE"} {
		if strings.Contains(text, sign) {
			s.tb.Errorf("berth's log has %q in it", sign)
		}
	}
	if s.tb.Failed() {
		s.tb.Logf("berth's log:\n%s", tail(text, 16<<10))
	}
}

func (s *Server) launch(addr, data string) (*process, error) {
	s.tb.Helper()
	bin, err := binary()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, append([]string{"serve", "--addr", addr, "--data", data, "--metrics-addr", ""}, s.args...)...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	return startProcess(cmd)
}

// process is a command that was started and is waited for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed at its end
	err  error         // of its end, once done
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	// Should the test itself be killed, so is what it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) wait(d time.Duration) error {
	select {
	case <-p.done:
		return nil
	case <-time.After(d):
		return context.DeadlineExceeded
	}
}

// stop ends the process with SIGTERM or, if it does not obey, with SIGKILL.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	if p.wait(daemonTime) != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// log collects what a process writes.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// FreeAddr returns a loopback address that nobody listens on. Its port is below
// those that the kernel gives to connections, so that none takes it between a
// server's end and its restart.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(15000+rand.IntN(15000)))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			_ = l.Close()
			return addr
		}
	}
	tb.Fatal("found no free port")
	return ""
}
