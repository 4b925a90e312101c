package berthtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// daemon is one of this module's programs: it is started, stopped, killed and
// started again.
type daemon struct {
	tb      testing.TB
	name    string
	machine *Machine // nil for this host
	program string   // empty: as Binary has it
	env     []string
	log     log
	proc    *process // nil unless it was started
}

func newDaemon(tb testing.TB, name string, machine *Machine, env []string) *daemon {
	return &daemon{tb: tb, name: name, machine: machine, env: env}
}

// Setenv sets KEY=VALUE for the next Restart.
func (d *daemon) Setenv(env string) { d.env = append(d.env, env) }

// Pid is the process's id, as this host knows it.
func (d *daemon) Pid() int { return d.proc.cmd.Process.Pid }

// Log returns what the program has logged since it was first started.
func (d *daemon) Log() string { return d.log.String() }

func (d *daemon) start(args ...string) {
	d.tb.Helper()
	bin := d.program
	if bin == "" {
		bin = Binary(d.tb, d.name)
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), d.env...)
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	var err error
	if d.proc, err = startProcess(cmd, d.machine); err != nil {
		d.tb.Fatalf("start %s: %v", d.name, err)
	}
}

// await waits until ready says that the program is.
func (d *daemon) await(ready func() bool) {
	d.tb.Helper()
	for deadline := time.Now().Add(startTime); !ready(); {
		select {
		case <-d.proc.done:
			d.tb.Fatalf("%s ended before it was ready: %v", d.name, d.proc.err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			d.tb.Fatalf("%s is not ready after %v", d.name, startTime)
		}
	}
}

// Stop ends the program with SIGTERM, and fails the test unless it exits with 0.
func (d *daemon) Stop() {
	d.tb.Helper()
	p := d.proc
	d.proc = nil
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // if it has ended, wait tells
	if err := p.wait(stopTime); err != nil {
		_ = p.cmd.Process.Kill()
		d.tb.Errorf("%s goes on running %v after SIGTERM", d.name, stopTime)
		return
	}
	if p.err != nil {
		d.tb.Errorf("%s ended with %v after SIGTERM", d.name, p.err)
	}
}

// Kill ends the program with SIGKILL.
func (d *daemon) Kill() {
	d.tb.Helper()
	p := d.proc
	d.proc = nil
	_ = p.cmd.Process.Kill() // if it has ended, wait tells
	if err := p.wait(stopTime); err != nil {
		d.tb.Fatalf("%s goes on running after SIGKILL", d.name)
	}
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		d.tb.Fatalf("%s ended before SIGKILL: %v", d.name, p.err)
	}
}

// Resident is how many bytes of memory the program has resident.
func (d *daemon) Resident() int64 {
	d.tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.Pid()))
	if err != nil {
		d.tb.Fatalf("read the memory of %s: %v", d.name, err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		d.tb.Fatalf("read the memory of %s: %v", d.name, err)
	}
	return pages * int64(os.Getpagesize())
}

// end is what a test does with it last.
func (d *daemon) end() {
	if d.proc != nil {
		d.Stop()
	}
	text := d.Log()
	for _, sign := range []string{"panic", "goroutine ", "DATA RACE"} {
		if strings.Contains(text, sign) {
			d.tb.Errorf("the log of %s has %q in it", d.name, sign)
		}
	}
	if d.tb.Failed() {
		d.tb.Logf("the log of %s:\n%s", d.name, tail(text, 16<<10))
	}
}
