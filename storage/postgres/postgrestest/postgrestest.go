// Package postgrestest starts PostgreSQL servers for tests: Debian's, each with data of
// its own, on a unix socket of its own, as a user of its own. They end with the test, and
// nothing of them stays.
package postgrestest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/freeaddr"
)

// Options say how a server is.
type Options struct {
	// Durable has it sync what it writes. Without, what a crash of the machine would
	// lose is lost only then: nothing is when the server is killed.
	Durable bool
	// TCP has it listen on a port of 127.0.0.1, too.
	TCP bool
	// Settings are further lines of its configuration, like "max_connections = 10".
	Settings []string
}

// Server is a server that runs, or that was stopped.
type Server struct {
	tb      testing.TB
	dir     string // holds data and socket
	data    string
	port    string
	options Options
	owner   *syscall.Credential // nil if this process's user will do

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// patience is how long a server may take to start or to end.
const patience = time.Minute

// Start starts a server that syncs nothing, and returns the DSN of an empty database.
func Start(tb testing.TB) (dsn string) {
	tb.Helper()
	return New(tb, Options{}).DSN()
}

// New makes a server and starts it.
func New(tb testing.TB, o Options) *Server {
	tb.Helper()
	// Not in TempDir, whose paths may be longer than that of a socket, and which others
	// than root may not enter.
	dir, err := os.MkdirTemp("/tmp", "berth-pg-") //nolint:usetesting // as above
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, dir: dir, data: filepath.Join(dir, "data"), port: "5432", options: o}
	tb.Cleanup(func() {
		s.end(syscall.SIGQUIT)
		if tb.Failed() {
			tb.Logf("the log of PostgreSQL ends with:\n%s", s.Log())
		}
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	if o.TCP {
		_, s.port, _ = net.SplitHostPort(freeaddr.For(tb))
	}
	s.own()
	out, err := s.command("initdb", "--no-sync", "--auth=trust", "--username=berth", "--encoding=UTF8", "--locale=C.UTF-8", "-D", s.data).CombinedOutput()
	if err != nil {
		tb.Fatalf("initdb: %v\n%s", err, out)
	}
	s.Start()
	return s
}

// own has the directory belong to an unprivileged user, as PostgreSQL refuses root.
func (s *Server) own() {
	s.tb.Helper()
	if os.Getuid() != 0 {
		return
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		s.tb.Fatalf("this test needs PostgreSQL, which is not installed; run: make tools (%v)", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2, os.Chown(s.dir, int(uid), int(gid))); err != nil {
		s.tb.Fatal(err)
	}
	s.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// command is a program of PostgreSQL.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	s.tb.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		s.tb.Fatalf("this test needs PostgreSQL, which is not installed; run: make tools")
	}
	slices.Sort(found)
	cmd := exec.Command(found[len(found)-1], args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"}
	// Should the test be killed, so is the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// DSN is the DSN of the database, over the socket.
func (s *Server) DSN() string {
	return fmt.Sprintf("host=%s port=%s user=berth dbname=postgres sslmode=disable", s.dir, s.port)
}

// Addr is where a server with TCP listens, and TCP the DSN of its database there.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", s.port) }

// TCP is the DSN of the database at an address.
func (s *Server) TCP(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("host=%s port=%s user=berth dbname=postgres sslmode=disable", host, port)
}

// Data is the directory of its data.
func (s *Server) Data() string { return s.data }

// Log is the end of what it has logged.
func (s *Server) Log() string {
	data, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-8<<10):])
}

// Start starts the server again, and waits until it serves.
func (s *Server) Start() {
	s.tb.Helper()
	args := []string{"-D", s.data, "-k", s.dir, "-p", s.port, "-c", "listen_addresses=", "-c", "log_min_messages=fatal", "-c", "max_connections=100"}
	if s.options.TCP {
		args = append(args, "-c", "listen_addresses=127.0.0.1")
	}
	if !s.options.Durable {
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off")
	}
	for _, setting := range s.options.Settings {
		args = append(args, "-c", setting)
	}
	deadline := time.Now().Add(patience)
	for {
		err := s.try(args, deadline)
		if err == nil {
			return
		}
		// Children of a server that was killed may still be about to notice.
		if time.Now().After(deadline) || !strings.Contains(s.Log(), "shared memory") {
			s.tb.Fatalf("PostgreSQL does not start: %v\n%s", err, s.Log())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// try starts the server.
func (s *Server) try(args []string, deadline time.Time) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := startBound(cmd); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // its log says why
	}()
	s.cmd, s.done = cmd, done
	for {
		if s.ready() {
			return nil
		}
		select {
		case <-done:
			return errors.New("it has ended")
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.New("it does not serve in time")
		}
	}
}

// ready says that the server serves, which it writes into its file.
func (s *Server) ready() bool {
	pid, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
	lines := bytes.Split(pid, []byte("\n"))
	return err == nil && len(lines) > 7 && string(lines[0]) == strconv.Itoa(s.cmd.Process.Pid) &&
		bytes.HasPrefix(lines[7], []byte("ready"))
}

// Stop stops the server: it ends all sessions, and writes everything down.
func (s *Server) Stop() {
	s.tb.Helper()
	s.end(syscall.SIGINT)
}

// Kill kills the server, as a crash would.
func (s *Server) Kill() {
	s.tb.Helper()
	s.end(syscall.SIGKILL)
}

// Pid is the process that starts all the others.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// end ends the server with a signal or, if it does not obey, with SIGKILL.
func (s *Server) end(sig os.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.done:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.awaitChildren()
	s.cmd = nil
}

// awaitChildren waits for the server's other processes, which see that it has gone.
func (s *Server) awaitChildren() {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if !anyIn(s.data) {
			return
		}
	}
	s.tb.Errorf("processes of PostgreSQL in %s do not end", s.data)
}

// anyIn says that a process runs in a directory.
func anyIn(dir string) bool {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	return slices.ContainsFunc(links, func(link string) bool {
		at, err := os.Readlink(link)
		return err == nil && at == dir
	})
}

// startBound starts a command that ends with this process. The kernel takes the end of
// the thread that started it for that, so it is one that does not end.
func startBound(cmd *exec.Cmd) error {
	done := make(chan error)
	lasting() <- func() { done <- cmd.Start() }
	return <-done
}

var lasting = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})
