package shim

import "testing"

// TestPauseOften pauses a container that makes processes all the time.
func TestPauseOften(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sh", "-c", `while :; do sleep 0.001; /bin/busybox true; done`)
		h.create(req)
		h.start(req.ID)
		for i := range 200 {
			if err := h.Pause(t.Context(), req.ID); err != nil {
				t.Fatal(i, err)
			}
			if got := h.state(req.ID); got != StatePaused {
				t.Errorf("paused: %s", got)
			}
			if err := h.Resume(t.Context(), req.ID); err != nil {
				t.Fatal(err)
			}
		}
	})
}
