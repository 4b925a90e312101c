package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"

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
	if err := logOpts.Readable(); err != nil {
		return runner.Stream{}, err
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
			return logs.Copy(ctx, e.store.Logs(c.id), opts, logOpts.Attributes(logged(rec)), ended, rec.Config.Tty, s)
		},
	}, nil
}

// openLogs begins to keep logs, and to send what removed containers have left.
func (e *Engine) openLogs() (err error) {
	if _, err := e.logOptions(e.logConfig(container.LogConfig{})); err != nil {
		return fmt.Errorf("the log driver of all containers: %w", err)
	}
	e.keeper = logs.NewKeeper(e.log)
	e.forwarder, err = logs.NewForwarder(e.log, e.keeper, filepath.Join(e.opts.Data, "logs"))
	return err
}

func (e *Engine) closeLogs() {
	if e.forwarder != nil {
		e.forwarder.Close()
	}
	if e.keeper != nil {
		e.keeper.Close()
	}
}

// logged is what a container's log is marked with.
func logged(rec *runner.Container) logs.Container {
	return logs.Container{
		ID: rec.ID, Name: rec.Name,
		ImageID: rec.ImageID, ImageName: rec.Config.Image,
		Command:    strings.Join(append([]string{rec.Path}, rec.Args...), " "),
		DaemonName: "berth-runner",
		Labels:     rec.Config.Labels, Env: rec.Config.Env,
	}
}

// logConfig fills in the driver that is configured for all containers, and for
// those that have it the options.
func (e *Engine) logConfig(cfg container.LogConfig) container.LogConfig {
	if cfg.Type == "" {
		cfg.Type = e.logDriver()
	}
	if cfg.Type != e.logDriver() || len(e.opts.LogOpts) == 0 {
		return cfg
	}
	merged := maps.Clone(e.opts.LogOpts)
	maps.Copy(merged, cfg.Config)
	cfg.Config = merged
	return cfg
}

// logDriver is the driver of containers that ask for none.
func (e *Engine) logDriver() string {
	if e.opts.LogDriver == "" {
		return logs.DriverJSONFile
	}
	return e.opts.LogDriver
}

// logOptions makes out how a container's log is kept, and where it goes.
func (e *Engine) logOptions(cfg container.LogConfig) (logs.Options, error) {
	return logs.ParseOptions(cfg, logs.Options{
		Driver:    e.logDriver(),
		MaxSize:   e.opts.LogMaxSize,
		MaxFile:   e.opts.LogMaxFile,
		MaxUnsent: e.opts.LogMaxUnsent,
	})
}

func (e *Engine) sentLog(rec *runner.Container, opts logs.Options) logs.Log {
	return logs.Log{ID: rec.ID, Dir: e.store.Logs(rec.ID), Options: opts, Source: opts.Source(logged(rec))}
}

// openLog begins to send the log of a container that starts, to the server that
// it wants.
func (e *Engine) openLog(ctx context.Context, rec *runner.Container) error {
	opts, err := e.logOptions(rec.HostConfig.LogConfig)
	if err != nil || opts.Remote == nil {
		return err
	}
	// It is not there if a daemon ended while it removed the container.
	if err := os.MkdirAll(e.store.Logs(rec.ID), 0o700); err != nil {
		return err
	}
	return e.forwarder.Begin(ctx, e.sentLog(rec, opts))
}

// watchLog keeps the log of a running container within its bounds from now on, and
// sends it.
func (e *Engine) watchLog(ctx context.Context, rec *runner.Container) error {
	opts, err := e.logOptions(rec.HostConfig.LogConfig)
	if err != nil || opts.Driver == logs.DriverNone {
		return err
	}
	e.keeper.Watch(rec.ID, e.store.Logs(rec.ID), opts, e.reopenLog(rec.ID))
	e.sendLog(ctx, rec, opts, false)
	return nil
}

// settleLog trims the log of a container that ended while no engine was there, and
// sends what is left to send.
func (e *Engine) settleLog(ctx context.Context, rec *runner.Container) error {
	opts, err := e.logOptions(rec.HostConfig.LogConfig)
	if err != nil || opts.Driver == logs.DriverNone {
		return err
	}
	err = logs.Settle(e.store.Logs(rec.ID), opts)
	e.sendLog(ctx, rec, opts, true)
	return err
}

// sendLog sends the log of a container that a daemon before may have begun to
// send. That it cannot, because a certificate is gone for example, keeps no
// container from running.
func (e *Engine) sendLog(ctx context.Context, rec *runner.Container, opts logs.Options, ended bool) {
	if opts.Remote == nil {
		return
	}
	if err := e.forwarder.Adopt(e.sentLog(rec, opts), ended); err != nil {
		e.log.ErrorContext(ctx, "send the log of a container", "container", rec.ID, "error", err)
	}
}

// leaveLog keeps what is to be sent of the log of a container that is removed.
func (e *Engine) leaveLog(ctx context.Context, id string) {
	if err := e.forwarder.Leave(id); err != nil {
		e.log.ErrorContext(ctx, "keep what is to be sent of a log", "container", id, "error", err)
	}
}
