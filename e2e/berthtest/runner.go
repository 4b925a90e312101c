package berthtest

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/moby/moby/client"
)

// RunnerOptions are what a runner can be started with.
type RunnerOptions struct {
	Machine *Machine // must be given
	Data    string   // directory; empty for a new one
	Env     []string // KEY=VALUE, besides the test's own environment
	Args    []string // of berth-runner serve, besides data
}

// Runner is a berth-runner process on a machine, with the socket and the run
// directory where they are by default.
type Runner struct {
	*daemon
	Machine *Machine
	Data    string // directory
	Run     string // directory of the machine

	args []string
}

// runnerSocket is where the runner listens on its machine.
const runnerSocket = "/run/berth/runner.sock"

// StartRunner starts a runner and waits until it answers. It is stopped when the
// test ends, which fails if the runner does not stop as it should or has
// panicked.
func StartRunner(tb testing.TB, o RunnerOptions) *Runner {
	tb.Helper()
	if o.Data == "" {
		o.Data = filepath.Join(tb.TempDir(), "runner")
	}
	r := &Runner{daemon: newDaemon(tb, "berth-runner", o.Machine, o.Env), Machine: o.Machine, Data: o.Data, Run: "/run/berth-runner", args: o.Args}
	tb.Cleanup(r.end)
	tb.Cleanup(func() {
		if tb.Failed() { // while all is as it was
			out, _, _ := NewCommand(tb, "ps").On(r.Machine).Try("-eo", "pid,ppid,stat,wchan:24,lstart,args")
			tb.Logf("the machine's processes:\n%s", tail(out, 16<<10))
		}
	})
	r.Restart()
	return r
}

// Restart starts the runner again, and waits until it answers. It must have been
// stopped or killed, or its machine rebooted.
func (r *Runner) Restart() {
	r.tb.Helper()
	r.Launch()
	c := &http.Client{Transport: &http.Transport{DialContext: r.dial}}
	defer c.CloseIdleConnections()
	r.await(func() bool { return answersOK(c, "http://runner/_ping") })
}

// Launch starts the runner again, and does not wait.
func (r *Runner) Launch() {
	r.tb.Helper()
	r.start(append([]string{"serve", "--data", r.Data}, r.args...)...)
}

// Refuses starts the runner, which is to refuse, and returns its exit code. It
// fails the test if it goes on running.
func (r *Runner) Refuses() (exitCode int) {
	r.tb.Helper()
	r.Launch()
	p := r.proc
	r.proc = nil
	if p.wait(startTime) != nil {
		_ = p.cmd.Process.Kill()
		r.tb.Fatal("the runner starts, and should not")
	}
	return p.cmd.ProcessState.ExitCode()
}

// Socket is the path of the socket on this host. A reboot changes it.
func (r *Runner) Socket() string { return r.Machine.Path(runnerSocket) }

// Host is what DOCKER_HOST is for this runner. A reboot changes it.
func (r *Runner) Host() string { return "unix://" + r.Socket() }

// dial connects to the socket.
func (r *Runner) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", r.Socket())
}

// Client returns a client of the API, for tb's life.
func (r *Runner) Client(tb testing.TB) *client.Client {
	tb.Helper()
	c, err := client.New(client.WithHost("unix:///runner.sock"), client.WithDialContext(r.dial))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Docker returns the docker command for this runner, on this host and with a
// configuration of its own. A reboot ends its use.
func (r *Runner) Docker(tb testing.TB) *Command {
	tb.Helper()
	return NewCommand(tb, "docker", "--config", filepath.Join(tb.TempDir(), "docker"), "--host", r.Host()).
		Env("DOCKER_CLI_HINTS=false", "DOCKER_BUILDKIT=0")
}

// Berth is the berth-runner command for this runner, on its machine and with a
// configuration of docker's of its own.
func (r *Runner) Berth(tb testing.TB, args ...string) *Command {
	tb.Helper()
	return &Command{
		tb: tb, path: Binary(tb, "berth-runner"), args: args, on: r.Machine, limit: commandTime,
		env: []string{"DOCKER_HOST=unix://" + runnerSocket, "DOCKER_CONFIG=" + filepath.Join(tb.TempDir(), "docker")},
	}
}

// Census counts what is on the runner's machine and in its directories.
func (r *Runner) Census(tb testing.TB) Census {
	tb.Helper()
	return r.Machine.Census(tb, r.Data, r.Run)
}

// Settle waits until a census is as c is.
func (r *Runner) Settle(tb testing.TB, c Census) {
	tb.Helper()
	Settle(tb, c, func() Census { return r.Census(tb) })
}
