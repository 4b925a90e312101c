package engine

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

// What a health check has unless it says otherwise, as in Docker.
const (
	probeInterval      = 30 * time.Second
	probeTimeout       = 30 * time.Second
	probeStartInterval = 5 * time.Second
	probeRetries       = 3

	probesKept  = 5    // results that an inspection shows
	probeOutput = 4096 // bytes of a result's output
)

// watchHealth runs the container's health check until its run r ends.
func (e *Engine) watchHealth(c *ctr, r *run) {
	rec, st := c.snapshot()
	cmd := probeCommand(rec.Config)
	if cmd == nil {
		return
	}
	cfg := rec.Config.Healthcheck
	e.work.run(func() {
		ctx := e.lifetime()
		for {
			wait := orDefault(cfg.Interval, probeInterval)
			if starting(cfg, st.StartedAt, time.Now()) {
				wait = orDefault(cfg.StartInterval, probeStartInterval)
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-r.ended:
			case <-ctx.Done():
			}
			timer.Stop()
			if isClosed(r.ended) || ctx.Err() != nil {
				return
			}
			if _, now := c.snapshot(); now.Status != container.StateRunning {
				continue // a frozen container answers when it is thawed
			}
			result := e.probe(ctx, c, cmd, orDefault(cfg.Timeout, probeTimeout))
			e.recordProbe(c, r, cfg, st.StartedAt, result)
		}
	})
}

// probeCommand is what the check runs, or nil if there is none.
func probeCommand(cfg *container.Config) []string {
	if cfg.Healthcheck == nil || len(cfg.Healthcheck.Test) == 0 {
		return nil
	}
	test := cfg.Healthcheck.Test
	switch test[0] {
	case "CMD":
		return test[1:]
	case "CMD-SHELL":
		shell := cfg.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return slices.Concat(shell, test[1:])
	default: // NONE
		return nil
	}
}

// starting says whether failures do not count yet.
func starting(cfg *container.HealthConfig, startedAt, now time.Time) bool {
	return cfg.StartPeriod > 0 && now.Sub(startedAt) < cfg.StartPeriod
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// probe runs the check once.
func (e *Engine) probe(ctx context.Context, c *ctr, cmd []string, timeout time.Duration) *container.HealthcheckResult {
	result := &container.HealthcheckResult{Start: time.Now(), ExitCode: -1}
	var out firstBytes
	code, err := e.runProbe(ctx, c, cmd, timeout, &out)
	result.End, result.Output = time.Now(), out.String()
	switch {
	case err == nil:
		result.ExitCode = code
	case result.End.Sub(result.Start) >= timeout:
		result.Output = "Health check exceeded timeout (" + timeout.String() + "): " + result.Output
	default:
		result.Output = err.Error()
	}
	return result
}

func (e *Engine) runProbe(ctx context.Context, c *ctr, cmd []string, timeout time.Duration, out *firstBytes) (int, error) {
	id, err := e.CreateExec(ctx, c.id, container.ExecCreateRequest{Cmd: cmd, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, err
	}
	x, _, err := e.findExec(id)
	if err != nil {
		return 0, err
	}
	defer e.execs.remove(x) // nobody else knows of it
	stream, err := e.StartExec(ctx, id, container.ExecStartRequest{}, false, true, true)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := stream.Copy(ctx, runner.Streams{Stdout: out, Stderr: out}); err != nil {
		if pid := x.snapshot().PID; pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended just now
		}
		return 0, err
	}
	if code := x.snapshot().ExitCode; code != nil {
		return *code, nil
	}
	return 0, context.DeadlineExceeded
}

// recordProbe draws the conclusion from a check of the run r, and tells of it if
// it is new.
func (e *Engine) recordProbe(c *ctr, r *run, cfg *container.HealthConfig, startedAt time.Time, result *container.HealthcheckResult) {
	c.mu.Lock()
	if c.run != r { // it has ended meanwhile: another may go on
		c.mu.Unlock()
		return
	}
	h := c.health
	before := h.Status
	next := *h // who looks at the old one must not see it change
	next.Log = append(slices.Clone(h.Log), result)
	next.Log = next.Log[max(0, len(next.Log)-probesKept):]
	switch {
	case result.ExitCode == 0:
		next.Status, next.FailingStreak = container.Healthy, 0
	case before == container.Starting && starting(cfg, startedAt, result.End):
	default:
		next.FailingStreak++
		retries := cfg.Retries
		if retries == 0 {
			retries = probeRetries
		}
		if next.FailingStreak >= retries {
			next.Status = container.Unhealthy
		}
	}
	c.health = &next
	c.mu.Unlock()
	if next.Status != before {
		e.containerEvent(c, events.Action(string(events.ActionHealthStatus)+": "+string(next.Status)))
	}
}

// healthOf is what an inspection shows of a container's checks, or nil if it has
// none.
func (c *ctr) healthOf() *container.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.health == nil {
		return nil
	}
	h := *c.health
	return &h
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *firstBytes) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p[:min(len(p), probeOutput-b.buf.Len())])
	return len(p), nil
}

func (b *firstBytes) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
