package shim

import (
	"fmt"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestDeleteWithExecs deletes a container while processes run in it, one was not
// started yet, and nobody takes the exits: the monitors that this process has
// started are waited for all the same.
func TestDeleteWithExecs(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sleep", "1000")
		h.create(req)
		h.start(req.ID)
		const started = 4
		var last *Exec
		var monitors []int
		for i := range started + 1 {
			e, err := h.PrepareExec(t.Context(), ExecRequest{ContainerID: req.ID, ExecID: fmt.Sprint("exec", i), Process: &specs.Process{
				Args: []string{"sleep", "1000"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{},
			}})
			if err != nil {
				t.Fatal(err)
			}
			monitors = append(monitors, e.run.monitor.pid)
			if last = e; i == started {
				break
			}
			if _, err := e.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		h.delete(req.ID)
		last.Abort()
		for range started + 1 {
			h.exit()
		}
		for _, pid := range monitors {
			waitFor(t, func() bool { return unix.Kill(pid, 0) != nil }) // a zombie takes a signal
		}
	})
}
