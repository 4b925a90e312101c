package engine

import (
	"context"
	"strings"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs"
)

// pastOutput writes what the container's log has so far.
func (e *Engine) pastOutput(ctx context.Context, c *ctr, s runner.Streams) error {
	rec, _ := c.snapshot()
	opts := runner.LogOptions{Stdout: s.Stdout != nil, Stderr: s.Stderr != nil, Tail: -1}
	over := make(chan struct{})
	close(over)
	return logs.Copy(ctx, e.store.Logs(c.id), opts, nil, over, rec.Config.Tty, s)
}

// ContainerLogs implements runner/api's ContainerStreams.
func (e *Engine) ContainerLogs(_ context.Context, ref string, opts runner.LogOptions) (runner.Stream, error) {
	c, err := e.find(ref)
	if err != nil {
		return runner.Stream{}, err
	}
	rec, st := c.snapshot()
	if !opts.Stdout && !opts.Stderr {
		return runner.Stream{}, runner.Errorf(runner.ErrInvalid, "You must choose at least one stream")
	}
	logOpts, err := e.logOptions(rec.HostConfig.LogConfig)
	if err != nil {
		return runner.Stream{}, err
	}
	if logOpts.Driver == logs.DriverNone {
		return runner.Stream{}, runner.Errorf(runner.ErrNotImplemented, "configured logging driver does not support reading")
	}
	ended := make(chan struct{})
	if r := c.currentRun(); r != nil && st.Running() {
		ended = r.ended
	} else {
		close(ended)
	}
	return runner.Stream{
		TTY:   rec.Config.Tty,
		Close: func() {},
		Copy: func(ctx context.Context, s runner.Streams) error {
			attrs := logOpts.Attributes(logs.Container{
				ID: rec.ID, Name: rec.Name,
				ImageID: rec.ImageID, ImageName: rec.Config.Image,
				Command:    strings.Join(append([]string{rec.Path}, rec.Args...), " "),
				DaemonName: "berth-runner",
				Labels:     rec.Config.Labels, Env: rec.Config.Env,
			})
			return logs.Copy(ctx, e.store.Logs(c.id), opts, attrs, ended, rec.Config.Tty, s)
		},
	}, nil
}
