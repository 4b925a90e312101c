package shim

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// BenchmarkLife makes, starts, awaits and deletes containers.
func BenchmarkLife(b *testing.B) {
	h := newHost(b, "crun")
	h.LifeLoop(b)
}

func (h *host) LifeLoop(b *testing.B) {
	var create, start, exit, del time.Duration
	for b.Loop() {
		req := h.request("true")
		t0 := time.Now()
		h.create(req)
		t1 := time.Now()
		h.start(req.ID)
		t2 := time.Now()
		h.exit()
		t3 := time.Now()
		h.delete(req.ID)
		t4 := time.Now()
		create += t1.Sub(t0)
		start += t2.Sub(t1)
		exit += t3.Sub(t2)
		del += t4.Sub(t3)
	}
	for name, d := range map[string]time.Duration{"create": create, "start": start, "exit": exit, "delete": del} {
		b.ReportMetric(float64(d.Microseconds())/float64(b.N), name+"-µs")
	}
}

// BenchmarkRuntime is the floor: the runtime alone on the same bundle, in a mount
// namespace made in the same way.
func BenchmarkRuntime(b *testing.B) {
	h := newHost(b, "crun")
	for b.Loop() {
		req := h.request("true")
		bundle, err := h.newContainer(req)
		if err != nil {
			b.Fatal(err)
		}
		if err := h.writeBundle(bundle, req); err != nil {
			b.Fatal(err)
		}
		err = onThread(func() error {
			if err := privateMounts(); err != nil {
				return err
			}
			if err := h.cgroups.hideUnified(); err != nil {
				return err
			}
			if err := req.Rootfs.mount(h.rootfs()); err != nil {
				return err
			}
			return exec.CommandContext(b.Context(), h.runtime.Path, "--root", h.stateDir(h.runtime), "run", "--bundle", bundle.dir, req.ID).Run()
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(bundle.dir); err != nil {
			b.Fatal(err)
		}
		h.mu.Lock()
		delete(h.containers, req.ID)
		h.mu.Unlock()
	}
}

// BenchmarkExec runs a process in a running container.
func BenchmarkExec(b *testing.B) {
	h := newHost(b, "crun")
	req := h.request("sleep", "1000")
	h.create(req)
	h.start(req.ID)
	p := &specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}}
	for b.Loop() {
		e, err := h.PrepareExec(context.Background(), ExecRequest{ContainerID: req.ID, ExecID: randomID(), Process: p, Attach: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Start(context.Background()); err != nil {
			b.Fatal(err)
		}
		h.exit()
		_ = e.Conn().Close()
	}
}
