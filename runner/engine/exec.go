package engine

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// CreateExec implements runner/api's Execs.
func (e *Engine) CreateExec(_ context.Context, ref string, req container.ExecCreateRequest) (string, error) {
	c, err := e.find(ref)
	if err != nil {
		return "", err
	}
	_, st := c.snapshot()
	switch {
	case st.Status == container.StatePaused:
		return "", runner.Errorf(runner.ErrConflict, "container %s is paused, unpause the container before exec", c.id)
	case st.Status == container.StateRestarting:
		return "", runner.Errorf(runner.ErrConflict, "container %s is restarting, wait until the container is running", c.id)
	case !st.Running():
		return "", runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	case len(req.Cmd) == 0 || req.Cmd[0] == "":
		return "", runner.Errorf(runner.ErrInvalid, "No exec command specified")
	}
	x := newExec(e.execFile, st.PID, execState{ID: newID(), Container: c.id, Request: req})
	if err := x.save(); err != nil {
		return "", err
	}
	e.execs.add(x)
	e.containerEvent(c, execAction(events.ActionExecCreate, req), "execID", x.id)
	return x.id, nil
}

// execAction is an event's action with the command, of which a very long one is
// cut: events are remembered.
func execAction(action events.Action, req container.ExecCreateRequest) events.Action {
	const longest = 4096
	command := strings.Join(req.Cmd, " ")
	return action + events.Action(": "+strings.ToValidUTF8(command[:min(len(command), longest)], ""))
}

func (e *Engine) findExec(id string) (*exec, *ctr, error) {
	x := e.execs.get(id)
	if x == nil {
		return nil, nil, runner.Errorf(runner.ErrNotFound, "No such exec instance: %s", id)
	}
	e.mu.RLock()
	c := e.containers[x.container]
	e.mu.RUnlock()
	if c == nil {
		return nil, nil, noSuchContainer(x.container)
	}
	return x, c, nil
}

// StartExec implements runner/api's Execs.
func (e *Engine) StartExec(_ context.Context, id string, req container.ExecStartRequest, stdin, stdout, stderr bool) (runner.Stream, error) {
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
		Close: func() { e.endExec(x, execNotRun) },
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
	err = pump(ctx, process.Conn(), s, never)
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
	return e.execs.claim(x)
}

// prepareExec makes the monitor of the process, which waits to be started.
func (e *Engine) prepareExec(ctx context.Context, x *exec, c *ctr, req container.ExecStartRequest, attach bool) (*shim.Exec, error) {
	asked := x.snapshot().Request
	process, err := e.execProcess(c, asked, req)
	if err != nil {
		e.endExec(x, execRefused)
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
		e.endExec(x, startCode(err))
	}
	return prepared, e.execError(x, c, err)
}

// execError is why an exec was not started: whatever went wrong did so because
// the container's run has ended or was paused meanwhile, if it was.
func (e *Engine) execError(x *exec, c *ctr, err error) error {
	switch {
	case err == nil:
		return nil
	case !e.alive(c, x.run):
		return runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	case strings.Contains(err.Error(), "paused"): // the runtime has seen it
		return runner.Errorf(runner.ErrConflict, "container %s is paused, unpause the container before exec", c.id)
	default:
		return err
	}
}

// execProcess makes the description of the process from the container's.
func (e *Engine) execProcess(c *ctr, asked container.ExecCreateRequest, req container.ExecStartRequest) (*specs.Process, error) {
	if req.ConsoleSize != nil {
		asked.ConsoleSize = req.ConsoleSize
	}
	rec, _ := c.snapshot()
	root, err := e.runningRoot(c)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return spec.Exec(e.inputWithRoot(e.withLinkEnv(rec), root), asked)
}

// beginExec starts the process.
func (e *Engine) beginExec(ctx context.Context, x *exec, c *ctr, process *shim.Exec) error {
	pid, err := process.Start(ctx)
	if err != nil {
		e.endExec(x, startCode(err))
		return e.execError(x, c, err)
	}
	if err := x.begun(pid); err != nil {
		e.log.ErrorContext(ctx, "save an exec", "exec", x.id, "error", err)
	}
	e.containerEvent(c, execAction(events.ActionExecStart, x.snapshot().Request), "execID", x.id)
	return nil
}

func (e *Engine) execExited(exit shim.Exit) {
	x, c, err := e.findExec(exit.ExecID)
	if err != nil {
		return // its container is gone
	}
	e.endExec(x, exit.Code)
	e.containerEvent(c, events.ActionExecDie, "execID", x.id, "exitCode", strconv.Itoa(exit.Code))
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
