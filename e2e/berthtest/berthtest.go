// Package berthtest runs the binaries of this module for tests: the real
// programs, as processes of their own, on addresses and data directories of
// their own; and on a Machine of their own where a test is about what they make
// of a host.
//
// What it starts ends with the test, and if the test fails its log is printed.
// A program that a test needs and that is not installed fails the test, and says
// how to install it: a test that was skipped proves nothing.
package berthtest

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/freeaddr"
)

const (
	startTime = 20 * time.Second // for a server to become ready
	stopTime  = 45 * time.Second // for a server to end after SIGTERM
)

// Options are what a server can be started with.
type Options struct {
	Data    string   // directory; empty for a new one
	Addr    string   // host:port; empty for a free port of the loopback
	Env     []string // KEY=VALUE, besides the test's own environment
	Args    []string // of berth serve, besides address and data
	Config  string   // YAML of its configuration file; empty for none
	CA      *CA      // of the certificate that Config names, if it speaks TLS
	Machine *Machine // where it runs; nil for this host
}

// Server is a berth process.
type Server struct {
	*daemon
	Addr string // host:port
	URL  string // http://host:port
	Data string // directory

	args   []string
	config string       // path, or empty
	client *http.Client // that reaches it
}

// Start starts a server and waits until it is ready. It is stopped when the test
// ends, which fails if the server does not stop as it should or has panicked.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	if o.Data == "" {
		o.Data = filepath.Join(tb.TempDir(), "data")
	}
	if o.Addr == "" {
		o.Addr = freeaddr.For(tb)
	}
	s := &Server{daemon: newDaemon(tb, "berth", o.Machine, o.Env), Addr: o.Addr, Data: o.Data, args: o.Args}
	s.URL, s.client = "http://"+s.Addr, o.Machine.Client()
	if o.CA != nil {
		s.URL, s.client = "https://"+s.Addr, o.CA.On(o.Machine)
	}
	if o.Config != "" {
		s.Configure(o.Config)
	}
	tb.Cleanup(s.end)
	s.Restart()
	return s
}

// Configure writes the file of the server's configuration anew, for the next
// Restart or Reload.
func (s *Server) Configure(yaml string) {
	s.tb.Helper()
	if s.config == "" {
		s.config = filepath.Join(s.tb.TempDir(), "berth.yaml")
		s.args = append([]string{"--config", s.config}, s.args...)
	}
	if err := os.WriteFile(s.config, []byte(yaml), 0o600); err != nil {
		s.tb.Fatal(err)
	}
}

// Berth is the berth command, for the administration of this server.
func (s *Server) Berth(args ...string) *Command {
	s.tb.Helper()
	return &Command{tb: s.tb, path: Binary(s.tb, "berth"), args: args, on: s.machine, limit: commandTime, env: []string{"BERTH_STORAGE_DATA=" + s.Data}}
}

// Port is the port of Addr.
func (s *Server) Port() string {
	_, port, _ := net.SplitHostPort(s.Addr) // FreeAddr made it
	return port
}

// Restart starts the server again on its address and data, and waits until it is
// ready. It must have been stopped or killed.
func (s *Server) Restart() {
	s.tb.Helper()
	s.start(s.argv(s.Addr)...)
	defer s.client.CloseIdleConnections()
	s.await(func() bool { return answersOK(s.client, s.URL+"/readyz") })
}

func (s *Server) argv(addr string) []string {
	return append([]string{"serve", "--addr", addr, "--data", s.Data, "--metrics-addr", ""}, s.args...)
}

// RunSecond runs another server on the same data, and returns how it ended and
// what it wrote. It fails the test if that server is still there after a time in
// which it should have refused to start.
func (s *Server) RunSecond() (exitCode int, output string) {
	s.tb.Helper()
	second := &Server{daemon: newDaemon(s.tb, "berth", s.machine, s.env), Data: s.Data}
	second.start(second.argv(freeaddr.For(s.tb))...)
	p := second.proc
	if err := p.wait(startTime); err != nil {
		_ = p.cmd.Process.Kill()
		s.tb.Fatalf("a second berth on the same data goes on running")
	}
	return p.cmd.ProcessState.ExitCode(), second.log.String()
}

// answersOK says whether url answers 200.
func answersOK(client *http.Client, url string) bool {
	res, err := client.Get(url)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}
