package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

func TestRestartPolicy(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("echo once; exit 1", restarted("on-failure", 2)))
	h.eventually("it is given up", func() bool { return h.state(id).Status == container.StateExited })
	if st := h.state(id); st.RestartCount != 2 || strings.Count(h.logs(id), "once") != 3 {
		t.Errorf("%d restarts, %q", st.RestartCount, h.logs(id))
	}
	// A user's start gives it all its tries again.
	h.must(h.StartContainer(t.Context(), id))
	h.eventually("it is given up again", func() bool {
		return h.state(id).Status == container.StateExited && strings.Count(h.logs(id), "once") == 6
	})
}

// While it waits for its next start a container counts as running.
func TestWhileItRestarts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("exit 1", restarted("always", 0), named("again")))
	waits := func() {
		t.Helper()
		h.eventually("it waits", func() bool {
			st := h.state(id)
			return st.Status == container.StateRestarting && st.RestartCount >= 3
		})
	}
	waits()
	if err := h.RemoveContainer(t.Context(), id, runner.RemoveOptions{}); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("removed: %v", err)
	}
	if err := h.PauseContainer(t.Context(), id); err == nil || !strings.Contains(err.Error(), "is restarting, wait until") {
		t.Errorf("paused: %v", err)
	}
	if _, err := h.AttachContainer(t.Context(), id, runner.AttachOptions{Stream: true, Stdout: true}); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("attached: %v", err)
	}
	for _, end := range []func() error{
		func() error { return h.StopContainer(t.Context(), id, runner.StopOptions{}) },
		func() error { return h.KillContainer(t.Context(), id, "KILL") },
	} {
		waits()
		h.must(end())
		if st := h.state(id); st.Status != container.StateExited || !st.StoppedByUser {
			t.Errorf("it is %s", st.Status)
		}
		h.must(h.StartContainer(t.Context(), id))
	}
	waits()
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{Force: true}))
	if _, err := h.find("again"); err == nil {
		t.Error("it is still there")
	}
}

// A container that is started again by a user does not wait for its turn in the
// restart policy, and is not started twice.
func TestStartWhileItRestarts(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("[ -e /tmp/good ] && exec sleep 1000; exit 1", restarted("always", 0)))
	h.eventually("it waits", func() bool {
		st := h.state(id)
		return st.Status == container.StateRestarting && st.RestartCount >= 3
	})
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{}))
	h.must(h.WriteContainerArchive(t.Context(), id, "/tmp", runner.ArchiveOptions{}, tarOf(t, "good", "")))
	h.must(h.StartContainer(t.Context(), id))
	st := h.state(id)
	time.Sleep(300 * time.Millisecond) // longer than the delay that was under way
	if now := h.state(id); now.PID != st.PID || now.RestartCount != 0 {
		t.Errorf("process %d became %d, with %d restarts", st.PID, now.PID, now.RestartCount)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	req := script("echo ready; exec sleep 1000")
	req.Healthcheck = &container.HealthConfig{
		Test: []string{"CMD-SHELL", "cat /tmp/well"}, Interval: 50 * time.Millisecond, Timeout: patience, Retries: 2,
	}
	id := h.run(req)
	c, err := h.find(id)
	h.must(err)
	health := func(want container.HealthStatus) func() bool {
		return func() bool { return c.healthOf().Status == want }
	}
	h.eventually("it is unhealthy", health(container.Unhealthy))
	if got := c.healthOf(); len(got.Log) == 0 || got.FailingStreak < 2 || !strings.Contains(got.Log[0].Output, "/tmp/well") {
		t.Errorf("it shows %+v", got)
	}
	if code, out := h.exec(id, "/bin/touch", "/tmp/well"); code != 0 {
		t.Fatal(out)
	}
	h.eventually("it is healthy", health(container.Healthy))

	// What a check of an earlier run says is not of this one.
	earlier := c.currentRun()
	h.must(h.RestartContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	h.recordProbe(c, earlier, req.Healthcheck, time.Now(), &container.HealthcheckResult{ExitCode: 99})
	for _, r := range c.healthOf().Log {
		if r.ExitCode == 99 {
			t.Error("the result of an earlier run is shown")
		}
	}
	h.reopen()
	c, err = h.find(id)
	h.must(err)
	h.eventually("it is healthy for the next engine", health(container.Healthy))
	if left := h.execs.of(id); len(left) > 1 { // one may be under way
		t.Errorf("%d checks are remembered as execs", len(left))
	}
}
