package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

const (
	probeOutput = 4096 // bytes of a result's output that are kept

	// probeStart bounds how long a check may take to start, which does not count
	// for its timeout: others may be starting, and the host be busy.
	probeStart = 30 * time.Second
	// probeEnd is how long one that was killed is waited for, so that those that do
	// not die do not pile up at once.
	probeEnd = 10 * time.Second
	// probesStarting is how many start at a time: containers that were started
	// together are checked together.
	probesStarting = 8
)

// errTimeout says that a check has not ended in time.
var errTimeout = errors.New("timeout")

// probe runs the check of the run r once.
func (e *Engine) probe(ctx context.Context, c *ctr, r *run, cmd []string, timeout time.Duration) *container.HealthcheckResult {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // with the run the check is pointless
		select {
		case <-r.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	result := &container.HealthcheckResult{Start: time.Now(), ExitCode: -1}
	var out firstBytes
	code, err := e.runProbe(ctx, c, cmd, timeout, &out)
	result.End, result.Output = time.Now(), out.String()
	switch {
	case err == nil:
		result.ExitCode = code
	case !errors.Is(err, errTimeout):
		result.Output = err.Error()
	case result.Output == "":
		result.Output = fmt.Sprintf("Health check exceeded timeout (%v)", timeout)
	default:
		result.Output = fmt.Sprintf("Health check exceeded timeout (%v): %s", timeout, result.Output)
	}
	return result
}

// runProbe runs the command of a check as an exec that nobody else is told of, and
// returns its exit code.
func (e *Engine) runProbe(ctx context.Context, c *ctr, cmd []string, timeout time.Duration, out *firstBytes) (int, error) {
	rec, st := c.snapshot()
	x := newExec(e.execFile, st.PID, execState{
		ID: newID(), Container: c.id, Probe: true,
		Request: container.ExecCreateRequest{User: rec.Config.User, Cmd: cmd, AttachStdout: true, AttachStderr: true},
	})
	if err := x.save(); err != nil {
		return 0, err
	}
	e.execs.add(x)
	defer e.execs.remove(x)
	e.containerEvent(c, execAction(events.ActionExecCreate, x.state.Request), "execID", x.id)
	conn, err := e.startProbe(ctx, x, c)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	err = pump(ctx, conn, runner.Streams{Stdout: out, Stderr: out}, never)
	if err == nil { // it may have closed its output and go on
		select {
		case <-x.ended:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		e.killProbe(x)
		return 0, err
	}
	return *x.snapshot().ExitCode, nil
}

// startProbe starts the process of a check, when it is its turn, and returns the
// connection to it.
func (e *Engine) startProbe(ctx context.Context, x *exec, c *ctr) (*shim.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probeStart, fmt.Errorf("timed out starting health check for container %s", c.id))
	defer cancel()
	select {
	case e.probes <- struct{}{}:
		defer func() { <-e.probes }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := e.claimExec(x, c); err != nil {
		return nil, err
	}
	process, err := e.prepareExec(ctx, x, c, container.ExecStartRequest{}, true)
	if err != nil {
		return nil, err
	}
	return process.Conn(), e.beginExec(ctx, x, c, process)
}

// abandonProbe ends a check for whose result nobody waits any more: the daemon
// that ran it is gone.
func (e *Engine) abandonProbe(x *exec) {
	pid := x.snapshot().PID
	if pids, err := e.shim.PIDs(x.container); err == nil && slices.Contains(pids, pid) {
		killFamily(pid)
	}
	forgetAll([]*exec{x})
}

// killProbe kills the process of a check with those that it has started, and
// gives it time to end.
func (e *Engine) killProbe(x *exec) {
	if isClosed(x.ended) {
		return // its number may be another process's
	}
	killFamily(x.snapshot().PID)
	timer := time.NewTimer(probeEnd)
	defer timer.Stop()
	select {
	case <-x.ended:
	case <-timer.C:
	case <-e.lifetime().Done():
	}
}

func killFamily(pid int) {
	for _, member := range family(pid) {
		_ = syscall.Kill(member, syscall.SIGKILL) // it may have ended just now
	}
}

// family returns a process and its descendants, or nothing for 0.
func family(pid int) []int {
	if pid <= 0 {
		return nil
	}
	pids := []int{pid}
	for i := 0; i < len(pids); i++ { // it grows meanwhile
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		if err != nil {
			return pids
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // it has ended
			}
			for word := range strings.FieldsSeq(string(text)) {
				if child, err := strconv.Atoi(word); err == nil && !slices.Contains(pids, child) {
					pids = append(pids, child)
				}
			}
		}
	}
	return pids
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more bool
}

func (b *firstBytes) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), probeOutput-b.buf.Len())
	b.buf.Write(p[:n])
	b.more = b.more || n < len(p)
	return len(p), nil
}

func (b *firstBytes) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.more {
		return b.buf.String() + "..."
	}
	return b.buf.String()
}
