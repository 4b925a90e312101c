package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berth-registry/berth/internal/freeaddr"
)

// process is a server's process. Its output goes to a file.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// startProcess starts a program whose output goes to dir/log.
func startProcess(dir, program string, args ...string) (*process, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(program, args...), log: log.Name(), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	// A group of its own keeps the terminal's interrupt from it: it is stopped
	// in turn. It does not outlive a benchmark that is killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // its state is read from the command
		close(p.done)
	}()
	return p, nil
}

// stopTimeout is how long a server may take to stop.
const stopTimeout = 30 * time.Second

// stop ends the process with a signal and waits for it.
func (p *process) stop(sig syscall.Signal) error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended by itself: %s: %s", p.cmd.Path, p.cmd.ProcessState, p.lastLog())
	default:
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill() // it may have ended just now
		<-p.done
		return fmt.Errorf("%s did not stop within %s: killed", p.cmd.Path, stopTimeout)
	}
}

// lastLog is the end of what the process said.
func (p *process) lastLog() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return string(bytes.TrimSpace(b[max(0, len(b)-most):]))
}

// await waits until url answers 200, and fails if the process ends before.
func (p *process) await(ctx context.Context, c *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := c.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s: %s", p.cmd.Path, p.cmd.ProcessState, p.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer %s: %w: %s", p.cmd.Path, url, ctx.Err(), p.lastLog())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// memory is the resident memory of a process, in bytes.
type memory struct {
	rss  int64 // all of it, mapped files included (VmRSS)
	anon int64 // what is not backed by a file (RssAnon)
	peak int64 // greatest rss since the last resetPeak (VmHWM)
}

func (p *process) memory() (memory, error) {
	b, err := os.ReadFile(p.proc("status"))
	if err != nil {
		return memory{}, err
	}
	var m memory
	fields := map[string]*int64{"VmRSS": &m.rss, "RssAnon": &m.anon, "VmHWM": &m.peak}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		field, ok := fields[name]
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		if err != nil {
			return m, err
		}
		*field = kib << 10
	}
	return m, nil
}

// resetPeak makes VmHWM start from what is resident now.
func (p *process) resetPeak() error { return os.WriteFile(p.proc("clear_refs"), []byte("5"), 0) }

// cpu is how long processors have worked for a process.
func (p *process) cpu() (time.Duration, error) {
	threads, err := filepath.Glob(p.proc("task/*/schedstat"))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if errors.Is(err, fs.ErrNotExist) { // it has just ended
			continue
		}
		if err != nil {
			return 0, err
		}
		onProcessor, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(onProcessor, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

func (p *process) proc(file string) string {
	return fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file)
}

// freeAddr returns an address of the loopback interface that nobody listens on, until
// the bench ends.
func freeAddr() (string, error) {
	addr, _, err := freeaddr.Claim()
	return addr, err
}
