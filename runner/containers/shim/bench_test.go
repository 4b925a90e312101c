package shim

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// BenchmarkLife makes, starts, awaits and deletes a container, and beside it runs
// the runtime alone on the same bundle, in a mount namespace made in the same way.
// It reports medians in microseconds, and the ratio of the two.
func BenchmarkLife(b *testing.B) {
	h := newHost(b, "crun")
	steps := map[string][]time.Duration{}
	for b.Loop() {
		steps["runtime"] = append(steps["runtime"], h.bareRun(b))
		req := h.request("true")
		begin := time.Now()
		last := begin
		step := func(name string) {
			now := time.Now()
			steps[name] = append(steps[name], now.Sub(last))
			last = now
		}
		h.create(req)
		step("create")
		h.start(req.ID)
		step("start")
		h.exit()
		step("exit")
		h.delete(req.ID)
		step("delete")
		steps["life"] = append(steps["life"], last.Sub(begin))
	}
	for name, d := range steps {
		b.ReportMetric(float64(median(d).Microseconds()), name+"-µs")
	}
	b.ReportMetric(float64(median(steps["life"]))/float64(median(steps["runtime"])), "ratio")
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// bareRun runs the runtime without a monitor.
func (h *host) bareRun(b *testing.B) time.Duration {
	b.Helper()
	req := h.request("true")
	bundle, err := h.newContainer(req)
	if err == nil {
		err = h.writeBundle(bundle, req)
	}
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
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
	took := time.Since(begin)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.RemoveAll(bundle.dir); err != nil {
		b.Fatal(err)
	}
	h.mu.Lock()
	delete(h.containers, req.ID)
	h.mu.Unlock()
	return took
}

// BenchmarkExec runs a process in a running container, to the notice of its exit.
func BenchmarkExec(b *testing.B) {
	h := newHost(b, "crun")
	req := h.request("sleep", "1000")
	h.create(req)
	h.start(req.ID)
	p := &specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		e, err := h.PrepareExec(context.Background(), ExecRequest{ContainerID: req.ID, ExecID: randomID(), Process: p, Attach: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Start(context.Background()); err != nil {
			b.Fatal(err)
		}
		h.exit()
		took = append(took, time.Since(begin))
		_ = e.Conn().Close()
	}
	b.ReportMetric(float64(median(took).Microseconds()), "median-µs")
}
