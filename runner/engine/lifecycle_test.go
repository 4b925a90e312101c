package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

func TestLife(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.create(script("echo ready; sleep 1000 & trap 'exit 7' TERM; wait", named("web")))
	if st := h.state(id); st.Status != container.StateCreated {
		t.Errorf("it is %s", st.Status)
	}
	h.must(h.StartContainer(t.Context(), id))
	if err := h.StartContainer(t.Context(), id); !errors.Is(err, runner.ErrNotModified) {
		t.Errorf("a second start: %v", err)
	}
	h.saysReady(id)
	if err := h.RemoveContainer(t.Context(), id, runner.RemoveOptions{}); !errors.Is(err, runner.ErrConflict) ||
		!strings.Contains(err.Error(), `cannot remove container "/web": container is running: stop the container before removing or force remove`) {
		t.Errorf("remove while it runs: %v", err)
	}
	h.must(h.PauseContainer(t.Context(), id))
	if err := h.PauseContainer(t.Context(), id); err == nil || err.Error() != "container "+id+" is already paused" {
		t.Errorf("a second pause: %v", err)
	}
	if err := h.StartContainer(t.Context(), id); err == nil || err.Error() != "cannot start a paused container, try unpause instead" {
		t.Errorf("start while it is paused: %v", err)
	}
	if err := h.RemoveContainer(t.Context(), id, runner.RemoveOptions{}); err == nil || !strings.HasSuffix(err.Error(), "container is paused and must be unpaused first") {
		t.Errorf("remove while it is paused: %v", err)
	}
	h.must(h.UnpauseContainer(t.Context(), id))
	if err := h.UnpauseContainer(t.Context(), id); err == nil || err.Error() != "container "+id+" is not paused" {
		t.Errorf("a second unpause: %v", err)
	}
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{}))
	if st := h.state(id); st.Status != container.StateExited || st.ExitCode != 7 {
		t.Errorf("after stop: %s, %d", st.Status, st.ExitCode)
	}
	if err := h.StopContainer(t.Context(), id, runner.StopOptions{}); !errors.Is(err, runner.ErrNotModified) {
		t.Errorf("a second stop: %v", err)
	}
	if err := h.KillContainer(t.Context(), id, "KILL"); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("kill of what has ended: %v", err)
	}
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{}))
	other := h.create(script("true", named("web"))) // the name is free at once
	if other == id {
		t.Error("an ID was given twice")
	}
}

// What is frozen when it is asked to end gets the signal, and is not said to be
// paused any more.
func TestStopOfPaused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("trap 'echo got it' TERM; echo ready; while true; do sleep 0.05; done"))
	h.saysReady(id)
	h.must(h.PauseContainer(t.Context(), id))
	h.must(h.KillContainer(t.Context(), id, "TERM"))
	if st := h.state(id); st.Status != container.StateRunning {
		t.Errorf("it is %s, though it was thawed for the signal", st.Status)
	}
	h.eventually("the signal arrives", func() bool { return strings.Contains(h.logs(id), "got it") })
	h.must(h.PauseContainer(t.Context(), id))
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	if st := h.state(id); st.ExitCode != 137 {
		t.Errorf("exit code %d", st.ExitCode)
	}
}

func TestStopTimeout(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("trap '' TERM; echo ready; while true; do sleep 0.05; done"))
	h.saysReady(id)
	begun := time.Now()
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Timeout: new(1)}))
	if d := time.Since(begun); d < time.Second || h.state(id).ExitCode != 137 {
		t.Errorf("after %v with exit code %d", d, h.state(id).ExitCode)
	}
	h.must(h.StartContainer(t.Context(), id))
	// Nobody waits longer for ever than its client does.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := h.StopContainer(ctx, id, runner.StopOptions{Timeout: new(-1)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the client is gone: %v", err)
	}
}

func TestRemovedAtEnd(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.create(script("exit 3", removedAtEnd, named("once")))
	removed, err := h.WaitContainer(t.Context(), id, container.WaitConditionRemoved)
	h.must(err)
	h.must(h.StartContainer(t.Context(), id))
	if r := <-removed; r.StatusCode != 3 {
		t.Errorf("exit code %d", r.StatusCode)
	}
	// It is gone when that is told.
	id = h.run(script("sleep 1000", removedAtEnd, named("once")))
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	id = h.run(script("sleep 1000", removedAtEnd, named("once"))) // at once after stop, too

	// A restart ends a run, not the container.
	h.must(h.RestartContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	if st := h.state(id); st.Status != container.StateRunning {
		t.Fatalf("after restart it is %q", st.Status)
	}
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{Force: true}))

	// One that cannot start is removed, and who waits for that is told.
	req := script("", removedAtEnd)
	req.Cmd = []string{"/no/such"}
	id = h.create(req)
	removed, err = h.WaitContainer(t.Context(), id, container.WaitConditionRemoved)
	h.must(err)
	if err := h.StartContainer(t.Context(), id); err == nil {
		t.Error("a missing command was started")
	}
	if r := <-removed; r.StatusCode != 127 {
		t.Errorf("exit code %d", r.StatusCode)
	}
}

// A container that ends by itself while it is removed by force is no error.
func TestForceRacesWithExit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for i := range 20 {
		id := h.run(script("true"))
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		do := h.RemoveContainer
		if i%2 == 0 {
			do = func(ctx context.Context, id string, _ runner.RemoveOptions) error {
				err := h.StopContainer(ctx, id, runner.StopOptions{})
				if errors.Is(err, runner.ErrNotModified) {
					return nil
				}
				return err
			}
		}
		if err := do(t.Context(), id, runner.RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// The exit of a start that failed is not taken for that of the next.
func TestStaleExit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("sleep 1000"))
	c, err := h.find(id)
	h.must(err)
	h.exited(h.lifetime(), exitOf(id, 1))
	if st := h.state(id); st.Status != container.StateRunning {
		t.Errorf("it is %s after the exit of an earlier process", st.Status)
	}
	if r := c.currentRun(); r == nil {
		t.Error("its run has ended")
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.create(script("exit 4"))
	if r := h.wait(id, container.WaitConditionNotRunning); r.StatusCode != 0 {
		t.Errorf("not started: %d", r.StatusCode)
	}
	next, err := h.WaitContainer(t.Context(), id, container.WaitConditionNextExit)
	h.must(err)
	removed, err := h.WaitContainer(t.Context(), id, container.WaitConditionRemoved)
	h.must(err)
	h.must(h.StartContainer(t.Context(), id))
	if r := <-next; r.StatusCode != 4 {
		t.Errorf("next exit: %d", r.StatusCode)
	}
	select {
	case <-removed:
		t.Error("it is not removed yet")
	default:
	}
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{}))
	if r := <-removed; r.StatusCode != 4 {
		t.Errorf("removed: %d", r.StatusCode)
	}
	if _, err := h.WaitContainer(t.Context(), id, "sometime"); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("an unknown condition: %v", err)
	}
	// Clients that go away are forgotten.
	id = h.create(script("true"))
	c, err := h.find(id)
	h.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	for range 100 {
		_, err := h.WaitContainer(ctx, id, container.WaitConditionNextExit)
		h.must(err)
	}
	cancel()
	h.eventually("no waiter is left", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.waiters) == 0
	})
}

// Everything at once on the same containers: no error but that something is not
// so any more, nothing stuck, and nothing left.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := h.meddle(fmt.Sprint("c", i%3)); err != nil && !expected(err) {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience + 3*time.Second):
		t.Fatal("an operation does not come back")
	}
}

func expected(err error) bool {
	for _, kind := range []error{runner.ErrNotFound, runner.ErrConflict, runner.ErrNotModified, context.DeadlineExceeded} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// meddle does one thing with the container of a name.
func (h *host) meddle(name string) error {
	ctx := h.t.Context()
	switch rand.IntN(12) {
	case 0, 1:
		_, err := h.CreateContainer(ctx, script("sleep 0.05; exit 1", named(name), removedAtEnd))
		return err
	case 2, 3:
		_, err := h.CreateContainer(ctx, script("sleep 1000", named(name), restarted("always", 0)))
		return err
	case 4, 5:
		return h.StartContainer(ctx, name)
	case 6:
		return h.StopContainer(ctx, name, runner.StopOptions{Timeout: new(0)})
	case 7:
		return h.RestartContainer(ctx, name, runner.StopOptions{Timeout: new(0)})
	case 8:
		return h.RemoveContainer(ctx, name, runner.RemoveOptions{Force: true, Volumes: true})
	case 9:
		if err := h.PauseContainer(ctx, name); err != nil {
			return err
		}
		return h.UnpauseContainer(ctx, name)
	case 10:
		if err := h.RenameContainer(ctx, name, name+"x"); err != nil {
			if errors.Is(err, runner.ErrInvalid) { // another was quicker
				return nil
			}
			return err
		}
		return h.RenameContainer(ctx, name+"x", name)
	default:
		return h.attachAndExec(name)
	}
}

func (h *host) attachAndExec(name string) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), 100*time.Millisecond)
	defer cancel()
	s, err := h.AttachContainer(ctx, name, runner.AttachOptions{Stdout: true, Stream: true})
	if err != nil {
		return err
	}
	if rand.IntN(2) == 0 {
		s.Close()
	} else if err := s.Copy(ctx, runner.Streams{Stdout: &buffer{}}); err != nil && !expected(err) {
		return err
	}
	x, err := h.CreateExec(ctx, name, container.ExecCreateRequest{Cmd: []string{"true"}, AttachStdout: true})
	if err != nil {
		return err
	}
	return h.StartExecDetached(ctx, x, container.ExecStartRequest{})
}
