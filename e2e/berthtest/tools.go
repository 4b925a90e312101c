package berthtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// commandTime is how long a command of Run may take, unless it is told otherwise.
const commandTime = 5 * time.Minute

// built holds the binaries that this process has built.
var built struct {
	sync.Mutex
	dir   string            // empty if there is none
	paths map[string]string // by name
}

// Binary returns the path of one of this module's programs, or fails the test.
func Binary(tb testing.TB, name string) string {
	tb.Helper()
	bin, err := binary(name)
	if err != nil {
		tb.Fatal(err)
	}
	return bin
}

// Program builds a program of the tests, which is in a directory of this module.
func Program(tb testing.TB, dir string) string {
	tb.Helper()
	bin, err := compile(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return bin
}

// binary returns the path of one of this module's programs: what BERTH_BIN or
// BERTH_RUNNER_BIN names, or else built anew.
func binary(name string) (string, error) {
	if bin := os.Getenv(strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_BIN"); bin != "" {
		return bin, nil
	}
	return compile("cmd/" + name)
}

// compile builds the program of a directory of this module, once.
func compile(source string) (string, error) {
	built.Lock()
	defer built.Unlock()
	if bin, ok := built.paths[source]; ok {
		return bin, nil
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "berth-e2e-")
		if err != nil {
			return "", err
		}
		built.dir, built.paths = dir, map[string]string{}
	}
	bin := filepath.Join(built.dir, filepath.Base(source))
	cmd := exec.Command("go", "build", "-o", bin, "github.com/berth-registry/berth/"+source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", source, err, out)
	}
	built.paths[source] = bin
	return bin, nil
}

// Main is TestMain for a package that starts servers.
func Main(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code) //revive:disable-line:deep-exit // it is TestMain
}

// Tool returns the path of a program that the test needs, or fails the test.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	tools := os.Getenv("BERTH_TOOLS")
	if tools == "" {
		tools = filepath.Join(ModuleRoot(tb), "bin", "tools")
	}
	if path := filepath.Join(tools, name); isFile(path) {
		return path
	}
	// Debian keeps daemons where a user's PATH does not reach.
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path := filepath.Join(dir, name); isFile(path) {
			return path
		}
	}
	tb.Fatalf("this test needs %s, which is not installed; run: make tools", name)
	return ""
}

// Root fails the test unless it runs as root.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Fatal("this test needs root, for mounts and daemons of its own; run: sudo make test")
	}
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// ModuleRoot is the directory of this module's source.
func ModuleRoot(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	for err == nil && !isFile(filepath.Join(dir, "go.mod")) {
		up := filepath.Dir(dir)
		if up == dir {
			err = errors.New("found no go.mod: the test does not run in Berth's source")
		}
		dir = up
	}
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Command is a program of Tool with a setting to run it in.
type Command struct {
	tb   testing.TB
	path string
	args []string // before those of Run
	env  []string
	dir  string
	in   string   // standard input
	on   *Machine // nil for this host

	limit time.Duration // how long it may take
}

// NewCommand returns the program name, which Run gives args before its own. A path
// is a program that need not be installed.
func NewCommand(tb testing.TB, name string, args ...string) *Command {
	tb.Helper()
	path := name
	if !filepath.IsAbs(name) {
		path = Tool(tb, name)
	}
	return &Command{tb: tb, path: path, args: args, limit: commandTime}
}

// Env adds KEY=VALUE to the program's environment.
func (c *Command) Env(env ...string) *Command {
	c.env = append(c.env, env...)
	return c
}

// Dir sets the directory that the program runs in.
func (c *Command) Dir(dir string) *Command {
	c.dir = dir
	return c
}

// Input returns the program with a text as its standard input.
func (c *Command) Input(text string) *Command {
	with := *c
	with.in = text
	return &with
}

// On sets the machine that the program runs on.
func (c *Command) On(m *Machine) *Command {
	c.on = m
	return c
}

// Within sets how long the program may take.
func (c *Command) Within(limit time.Duration) *Command {
	c.limit = limit
	return c
}

// Run runs the program and returns what it wrote on its standard output. It
// fails the test if the program fails.
func (c *Command) Run(args ...string) string {
	c.tb.Helper()
	stdout, stderr, err := c.Try(args...)
	if err != nil {
		c.tb.Fatalf("%s %s: %v\n%s%s", filepath.Base(c.path), strings.Join(slices.Concat(c.args, args), " "), err, stdout, stderr)
	}
	return stdout
}

// Try is Run for a program that may fail.
func (c *Command) Try(args ...string) (stdout, stderr string, err error) {
	c.tb.Helper()
	var out, errOut bytes.Buffer
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	p, err := startProcess(cmd, c.on)
	if err != nil {
		return "", "", err
	}
	if p.wait(c.limit) != nil {
		_ = cmd.Process.Kill()
		<-p.done
		return out.String(), errOut.String(), fmt.Errorf("still running after %v", c.limit)
	}
	return out.String(), errOut.String(), p.err
}

func (c *Command) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.path, slices.Concat(c.args, args)...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Dir = c.dir
	if c.in != "" {
		cmd.Stdin = strings.NewReader(c.in)
	}
	cmd.WaitDelay = time.Second // a child may have kept the output open
	return cmd
}

// Daemon starts the program and waits until ready says so. It ends with stop or
// with the test, by SIGTERM, and if the test fails its log is printed.
func (c *Command) Daemon(ready func() error, args ...string) (stop func()) {
	c.tb.Helper()
	end := c.Service(func(string) error { return ready() }, args...)
	return func() { end(syscall.SIGTERM) }
}

// Service is Daemon for a program that tells by its log when it is ready, and
// that is ended by a signal of choice; stop returns its exit code.
func (c *Command) Service(ready func(log string) error, args ...string) (stop func(os.Signal) int) {
	c.tb.Helper()
	var out log
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := startProcess(cmd, c.on)
	if err != nil {
		c.tb.Fatal(err)
	}
	name := filepath.Base(c.path)
	c.tb.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		if c.tb.Failed() {
			c.tb.Logf("%s's log:\n%s", name, tail(out.String(), 8<<10))
		}
	})
	for deadline := time.Now().Add(daemonTime); ; {
		err := ready(out.String())
		if err == nil {
			return p.stop
		}
		select {
		case <-p.done:
			c.tb.Fatalf("%s ended before it was ready: %v", name, p.err)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			c.tb.Fatalf("%s is not ready after %v: %v", name, daemonTime, err)
		}
	}
}

// daemonTime is how long a daemon of another project may take to be ready, or to
// end.
const daemonTime = time.Minute
