package runner

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestRestartPolicies has containers of all policies live through a new runner,
// through one that was killed while containers end, and through a reboot.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	ctx := t.Context()
	h.docker.Run("pull", "-q", h.image("busybox"))
	for _, one := range []struct {
		name, network string
		policy        container.RestartPolicyMode
		stopped       bool
	}{
		{"always", "", container.RestartPolicyAlways, false},
		{"a-joiner", "container:always", container.RestartPolicyAlways, false},
		{"always-stopped", "", container.RestartPolicyAlways, true},
		{"unless", "", container.RestartPolicyUnlessStopped, false},
		{"unless-stopped", "", container.RestartPolicyUnlessStopped, true},
		{"failure", "", container.RestartPolicyOnFailure, false},
		{"failure-stopped", "", container.RestartPolicyOnFailure, true},
		{"no", "", container.RestartPolicyDisabled, false},
	} {
		_, err := h.api.run(ctx, spec{one.name, h.image("busybox"), []string{"sleep", "1000"}, func(_ *container.Config, hc *container.HostConfig) {
			hc.RestartPolicy.Name, hc.NetworkMode = one.policy, container.NetworkMode(one.network)
		}})
		if err == nil && one.stopped {
			err = h.api.stop(ctx, one.name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	before := h.processes(ctx, "always", "a-joiner", "unless", "failure", "no")

	h.Stop()
	h.Restart()
	// Docker's rule: what always has and was stopped comes back with the daemon.
	h.are(ctx, "running 0", "always", "a-joiner", "always-stopped", "unless", "failure", "no")
	h.are(ctx, "exited 0", "unless-stopped", "failure-stopped")
	if after := h.processes(ctx, "always", "a-joiner", "unless", "failure", "no"); after != before {
		t.Errorf("the processes were %s and are %s", before, after)
	}

	// What ends while no runner is there is answered by the next.
	ends := []string{"-9"}
	for _, name := range []string{"always", "unless", "failure", "no"} {
		c, err := h.api.inspect(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, strconv.Itoa(c.State.Pid))
	}
	h.Kill()
	berthtest.NewCommand(t, "kill").On(h.Machine).Run(ends...)
	h.Restart()
	h.are(ctx, "running 1", "always", "unless", "failure")
	h.are(ctx, "exited 0", "no", "unless-stopped", "failure-stopped")
	if err := h.api.stop(ctx, "always-stopped"); err != nil {
		t.Fatal(err)
	}

	h.reboot()
	h.are(ctx, "running 1", "always", "unless", "failure")
	h.are(ctx, "running 0", "always-stopped", "a-joiner")
	h.are(ctx, "exited 0", "no", "unless-stopped", "failure-stopped")
	same := func(name string) string { return h.docker.Run("exec", name, "readlink", "/proc/self/ns/net") }
	if same("always") != same("a-joiner") {
		t.Error("who shares the network of another is not in it")
	}
}

// are waits until containers have a status and a count of restarts.
func (h *host) are(ctx context.Context, want string, names ...string) {
	h.t.Helper()
	for _, name := range names {
		err := eventually(func() error {
			c, err := h.api.inspect(ctx, name)
			if err != nil {
				return err
			}
			if got := fmt.Sprintf("%s %d", c.State.Status, c.RestartCount); got != want {
				return fmt.Errorf("%s is %s: want %s", name, got, want)
			}
			return nil
		})
		if err != nil {
			h.t.Error(err)
		}
	}
}

// processes tells the first processes of containers.
func (h *host) processes(ctx context.Context, names ...string) (all string) {
	h.t.Helper()
	for _, name := range names {
		c, err := h.api.inspect(ctx, name)
		if err != nil {
			h.t.Fatal(err)
		}
		all += fmt.Sprintf("%s=%d ", name, c.State.Pid)
	}
	return all
}
