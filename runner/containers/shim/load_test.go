package shim

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCancel gives up the making of containers at random moments.
func TestCancel(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), rand.N(30*time.Millisecond))
			req := h.request("true")
			_, err := h.Create(ctx, req)
			cancel()
			if err == nil {
				h.delete(req.ID)
			} else if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if ids := h.ids(); len(ids) > 0 {
			t.Errorf("left: %v", ids)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		leftovers(t, h.dir, h.cgroup)
		h.open(h.runtime.Name)
	})
}

// TestManyAtOnce runs containers and execs side by side.
func TestManyAtOnce(t *testing.T) {
	h := newHost(t, "crun")
	const workers, each = 10, 5
	var mu sync.Mutex
	waiting := map[string]chan Exit{}
	wait := func(key string) chan Exit {
		mu.Lock()
		defer mu.Unlock()
		if waiting[key] == nil {
			waiting[key] = make(chan Exit, 2)
		}
		return waiting[key]
	}
	go func() {
		for e := range h.Exits() {
			wait(e.ID + "/" + e.ExecID) <- e
		}
	}()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range each {
				if err := once(t.Context(), h, wait); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for key, exits := range waiting {
		if len(exits) > 0 {
			t.Errorf("exit of %s told twice", key)
		}
	}
}

func once(ctx context.Context, h *host, wait func(key string) chan Exit) error {
	req := h.request("sleep", "1000")
	if _, err := h.Create(ctx, req); err != nil {
		return err
	}
	if err := h.Start(ctx, req.ID); err != nil {
		return err
	}
	p := &specs.Process{Args: []string{"sh", "-c", "exit 6"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}}
	e, err := h.PrepareExec(ctx, ExecRequest{ContainerID: req.ID, ExecID: "x", Process: p, Attach: true})
	if err != nil {
		return err
	}
	if _, err := e.Start(ctx); err != nil {
		return err
	}
	defer e.Conn().Close()
	if x := <-wait(req.ID + "/x"); x.Code != 6 {
		return errors.New("wrong exit code of the exec")
	}
	if err := h.Kill(ctx, req.ID, 9); err != nil {
		return err
	}
	if x := <-wait(req.ID + "/"); x.Code != 137 {
		return errors.New("wrong exit code")
	}
	return h.Delete(ctx, req.ID)
}
