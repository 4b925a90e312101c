package berthtest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is a command that was started and is waited for.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed at its end
	err  error         // of its end, once done
}

// startProcess starts a command on a machine, or with nil on this host. Should
// the test itself be killed, so is what it started.
func startProcess(cmd *exec.Cmd, m *Machine) (*process, error) {
	// A child may have its output for longer than the program lives.
	cmd.WaitDelay = 10 * time.Second
	start := m.start
	if m == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		start = startBound
	}
	if err := start(cmd); err != nil {
		return nil, err
	}
	return watch(cmd), nil
}

// startBound starts a command that is to end with this process (Pdeathsig). The
// kernel takes the end of the thread that started it for that, so it is started
// by one that does not end.
func startBound(cmd *exec.Cmd) error {
	done := make(chan error)
	lastingThread() <- func() { done <- cmd.Start() }
	return <-done
}

var lastingThread = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// watch waits for a command that was started.
func watch(cmd *exec.Cmd) *process {
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p
}

func (p *process) wait(d time.Duration) error {
	select {
	case <-p.done:
		return nil
	case <-time.After(d):
		return context.DeadlineExceeded
	}
}

// stop ends the process with a signal or, if it does not obey, with SIGKILL, and
// returns its exit code.
func (p *process) stop(sig os.Signal) (exitCode int) {
	_ = p.cmd.Process.Signal(sig) // it may have ended
	if p.wait(daemonTime) != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return p.cmd.ProcessState.ExitCode()
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
