package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// exec is a further process of a running container. It is known until the
// container's run ends, also to the next daemon: its file lies in the run
// directory, since no exec outlives a reboot.
type exec struct {
	id, container string

	mu    sync.Mutex
	state execState
	ended chan struct{} // closed when the process has ended
}

// execState is what the file of an exec has.
type execState struct {
	ID, Container string
	Request       container.ExecCreateRequest
	Started       bool
	PID           int
	ExitCode      *int
}

func newExec(st execState) *exec {
	x := &exec{id: st.ID, container: st.Container, state: st, ended: make(chan struct{})}
	if st.ExitCode != nil {
		close(x.ended)
	}
	return x
}

func (x *exec) snapshot() execState {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.state
}

func (e *Engine) execFile(id string) string {
	return filepath.Join(e.opts.Run, "execs", id+".json")
}

// saveExec writes the exec's file, for a daemon that takes over.
func (e *Engine) saveExec(x *exec) error {
	data, err := json.Marshal(x.snapshot())
	if err != nil {
		return err
	}
	path := e.execFile(x.id)
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// CreateExec implements runner/api's Execs.
func (e *Engine) CreateExec(_ context.Context, ref string, req container.ExecCreateRequest) (string, error) {
	c, err := e.find(ref)
	if err != nil {
		return "", err
	}
	switch _, st := c.snapshot(); {
	case st.Status == container.StatePaused:
		return "", runner.Errorf(runner.ErrConflict, "container %s is paused, unpause the container before exec", c.id)
	case !st.Running():
		return "", runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	case len(req.Cmd) == 0 || req.Cmd[0] == "":
		return "", runner.Errorf(runner.ErrInvalid, "No exec command specified")
	}
	x := newExec(execState{ID: newID(), Container: c.id, Request: req})
	if err := e.saveExec(x); err != nil {
		return "", err
	}
	e.mu.Lock()
	e.execs[x.id] = x
	e.mu.Unlock()
	e.containerEvent(c, execAction(events.ActionExecCreate, req), "execID", x.id)
	return x.id, nil
}

func execAction(action events.Action, req container.ExecCreateRequest) events.Action {
	return action + events.Action(": "+strings.Join(req.Cmd, " "))
}

func (e *Engine) findExec(id string) (*exec, *ctr, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	x := e.execs[id]
	if x == nil {
		return nil, nil, runner.Errorf(runner.ErrNotFound, "No such exec instance: %s", id)
	}
	c := e.containers[x.container]
	if c == nil {
		return nil, nil, noSuchContainer(x.container)
	}
	return x, c, nil
}

// StartExec implements runner/api's Execs.
func (e *Engine) StartExec(ctx context.Context, id string, req container.ExecStartRequest, stdin, stdout, stderr bool) (runner.Stream, error) {
	x, c, err := e.findExec(id)
	if err != nil {
		return runner.Stream{}, err
	}
	st := x.snapshot()
	opts := runner.AttachOptions{
		Stdin:  stdin && st.Request.AttachStdin,
		Stdout: stdout && st.Request.AttachStdout,
		Stderr: stderr && st.Request.AttachStderr,
	}
	if err := e.claimExec(x, c); err != nil {
		return runner.Stream{}, err
	}
	// From here on errors are for the one who reads the output, as in Docker.
	return runner.Stream{
		TTY: st.Request.Tty,
		Copy: func(ctx context.Context, s runner.Streams) error {
			return e.runExec(ctx, x, c, req, chosen(s, opts))
		},
		Close: func() { x.endStart(nil) },
	}, nil
}

// runExec starts the process with a client attached and carries its streams.
func (e *Engine) runExec(ctx context.Context, x *exec, c *ctr, req container.ExecStartRequest, s runner.Streams) error {
	whole := context.WithoutCancel(ctx)
	process, err := e.prepareExec(whole, x, c, req, true)
	if err != nil {
		return err
	}
	if err := e.beginExec(whole, x, c, process); err != nil {
		return err
	}
	err = pump(ctx, process.Conn(), s, false)
	if errors.Is(err, errDetached) {
		e.containerEvent(c, execAction(events.ActionExecDetach, x.snapshot().Request), "execID", x.id)
		return nil
	}
	if err != nil {
		return err
	}
	return x.wait(ctx)
}

// wait waits for the exit code: a client asks for it as soon as its stream ends.
func (x *exec) wait(ctx context.Context) error {
	const patience = 10 * time.Second // the process may have closed its output and go on
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-x.ended:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// StartExecDetached implements runner/api's Execs.
func (e *Engine) StartExecDetached(ctx context.Context, id string, req container.ExecStartRequest) error {
	ctx = context.WithoutCancel(ctx)
	x, c, err := e.findExec(id)
	if err != nil {
		return err
	}
	if err := e.claimExec(x, c); err != nil {
		return err
	}
	process, err := e.prepareExec(ctx, x, c, req, false)
	if err != nil {
		return err
	}
	return e.beginExec(ctx, x, c, process)
}

// claimExec makes sure that an exec is started once, and while its container
// runs.
func (e *Engine) claimExec(x *exec, c *ctr) error {
	if _, st := c.snapshot(); !st.Running() {
		return runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state.Started {
		return runner.Errorf(runner.ErrConflict, "exec %s has already been started", x.id)
	}
	x.state.Started = true
	return nil
}

// prepareExec makes the monitor of the process, which waits to be started.
func (e *Engine) prepareExec(ctx context.Context, x *exec, c *ctr, req container.ExecStartRequest, attach bool) (*shim.Exec, error) {
	asked := x.snapshot().Request
	process, err := e.execProcess(c, asked, req)
	if err != nil {
		x.endStart(err)
		return nil, err
	}
	prepared, err := e.shim.PrepareExec(ctx, shim.ExecRequest{
		ContainerID: c.id,
		ExecID:      x.id,
		Process:     process,
		Stdin:       attach && asked.AttachStdin,
		Attach:      attach,
	})
	if err != nil {
		x.endStart(err)
	}
	return prepared, err
}

// execProcess makes the description of the process from the container's.
func (e *Engine) execProcess(c *ctr, asked container.ExecCreateRequest, req container.ExecStartRequest) (*specs.Process, error) {
	rec, st := c.snapshot()
	if !st.Running() {
		return nil, runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	}
	if req.ConsoleSize != nil {
		asked.ConsoleSize = req.ConsoleSize
	}
	root, err := shim.OpenRunningRoot(st.PID)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return spec.Exec(e.inputWithRoot(rec, root), asked)
}

// beginExec starts the process.
func (e *Engine) beginExec(ctx context.Context, x *exec, c *ctr, process *shim.Exec) error {
	pid, err := process.Start(ctx)
	if err != nil {
		x.endStart(err)
		return err
	}
	x.mu.Lock()
	x.state.PID = pid
	x.mu.Unlock()
	if err := e.saveExec(x); err != nil {
		e.log.ErrorContext(ctx, "save an exec", "exec", x.id, "error", err)
	}
	e.containerEvent(c, execAction(events.ActionExecStart, x.snapshot().Request), "execID", x.id)
	return nil
}

// endStart records that the process was not started.
func (x *exec) endStart(err error) {
	code := 128
	if err != nil {
		code = startCode(err)
	}
	x.end(code)
}

func (x *exec) end(code int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state.ExitCode != nil {
		return
	}
	x.state.ExitCode, x.state.PID = &code, 0
	close(x.ended)
}

func (e *Engine) execExited(exit shim.Exit) {
	x, c, err := e.findExec(exit.ExecID)
	if err != nil {
		return // its container is gone
	}
	x.end(exit.Code)
	if err := e.saveExec(x); err != nil && !errors.Is(err, os.ErrNotExist) {
		e.log.Error("save an exec", "exec", x.id, "error", err)
	}
	e.containerEvent(c, events.ActionExecDie, "execID", x.id, "exitCode", strconv.Itoa(exit.Code))
	time.AfterFunc(execsKept, func() { e.forgetExec(x) })
}

// execsKept is how long the exit code of an exec can be asked for.
const execsKept = 5 * time.Minute

// endExecs ends the execs of a container that has ended: their processes went
// with its first, whether or not their exits are known yet.
func (e *Engine) endExecs(containerID string) {
	for _, x := range e.execsOf(containerID) {
		x.end(137)
	}
}

// forgetExecs drops the execs of a container.
func (e *Engine) forgetExecs(containerID string) {
	for _, x := range e.execsOf(containerID) {
		x.end(137)
		e.forgetExec(x)
	}
}

func (e *Engine) forgetExec(x *exec) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.execs, x.id)
	os.Remove(e.execFile(x.id))
}

func (e *Engine) execsOf(containerID string) []*exec {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var all []*exec
	for _, x := range e.execs {
		if x.container == containerID {
			all = append(all, x)
		}
	}
	return all
}

// execIDs lists the execs of a container that have not ended.
func (e *Engine) execIDs(containerID string) []string {
	var ids []string
	for _, x := range e.execsOf(containerID) {
		if x.snapshot().ExitCode == nil {
			ids = append(ids, x.id)
		}
	}
	return ids
}

// ResizeExec implements runner/api's Execs.
func (e *Engine) ResizeExec(ctx context.Context, id string, height, width uint16) error {
	x, c, err := e.findExec(id)
	if err != nil {
		return err
	}
	if st := x.snapshot(); st.PID == 0 {
		return runner.Errorf(runner.ErrConflict, "exec %s is not running", id)
	}
	return e.shim.Resize(ctx, c.id, x.id, height, width)
}

// InspectExec implements runner/api's Execs.
func (e *Engine) InspectExec(_ context.Context, id string) (container.ExecInspectResponse, error) {
	x, _, err := e.findExec(id)
	if err != nil {
		return container.ExecInspectResponse{}, err
	}
	st := x.snapshot()
	return container.ExecInspectResponse{
		ID:          st.ID,
		Running:     st.PID != 0,
		ExitCode:    st.ExitCode,
		ContainerID: st.Container,
		Pid:         st.PID,
		OpenStdin:   st.Request.AttachStdin,
		OpenStdout:  st.Request.AttachStdout,
		OpenStderr:  st.Request.AttachStderr,
		CanRemove:   st.ExitCode != nil,
		DetachKeys:  []byte(st.Request.DetachKeys),
		ProcessConfig: &container.ExecProcessConfig{
			Tty:        st.Request.Tty,
			Entrypoint: st.Request.Cmd[0],
			Arguments:  st.Request.Cmd[1:],
			Privileged: &st.Request.Privileged,
			User:       st.Request.User,
		},
	}, nil
}
