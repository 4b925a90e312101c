package runner

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
)

var loopTime = flag.Duration("loops", time.Minute, "how long TestLoops goes on")

const (
	apiLoops     = 96
	commandLoops = 4
	choreLoops   = 2 // of each chore

	loopMetrics = "127.0.0.1:9323"
)

// TestLoops runs containers in a hundred loops at once, as docker run --rm does,
// and beside them all chores: none fails, no output is lost, and in the end nothing
// is left.
func TestLoops(t *testing.T) { // alone: it would slow others down beyond their patience
	h := newHost(t, berthtest.MachineOptions{}, "--metrics-addr", loopMetrics)
	b := h.buildx(t)
	h.takeLogs()
	before := h.usedCensus()
	b.loop(2*apiLoops, time.Now()) // as many connections as there will be
	if diff := noCache(before).Diff(noCache(h.rest())); diff != "" {
		t.Errorf("after each chore the host is not as it was:\n%s", diff)
	}
	before = h.rest() // with what stays of a build cache
	open, routines := h.Descriptors(), h.goroutines()

	runs := b.loop(apiLoops, time.Now().Add(*loopTime))
	t.Logf("%d containers and chores in %v, %d bytes resident", runs, *loopTime, h.Resident())
	h.Settle(t, before)
	if err := eventually(func() error {
		if now := h.goroutines(); goroutineCount(now) > goroutineCount(routines)+someMore {
			return fmt.Errorf("the runner's goroutines are not as they were:\n%s\nbut:\n%s", routines, now)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := eventually(func() error {
		h.profile("heap?gc=1") // with what is kept for the next use go the pipes for splice(2)
		if diff := open.Diff(h.Descriptors()); len(diff) > 0 && len(h.Descriptors()) > len(open) {
			return fmt.Errorf("the runner's open files are not as they were:\n%s", diff)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// someMore goroutines there may be in the end, as connections come and go: what
// each of thousands of containers or chores leaves would be more.
const someMore = 8

// goroutines are those of the runner, by where they are.
func (h *host) goroutines() string { return h.profile("goroutine?debug=1") }

// profile fetches one of the runner's profiles.
func (h *host) profile(name string) string {
	h.t.Helper()
	c := h.Machine.Client()
	defer c.CloseIdleConnections()
	res, err := c.Get("http://" + loopMetrics + "/debug/pprof/" + name)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

func goroutineCount(profile string) (n int) {
	_, _ = fmt.Sscanf(profile, "goroutine profile: total %d", &n) // none is a failure, too
	return n
}

// loop runs containers from a number of clients of the API, and some of the
// docker command, and does chores, each at least once and until a time.
func (h *builder) loop(clients int, until time.Time) int64 {
	h.t.Helper()
	var runs atomic.Int64
	var loops sync.WaitGroup
	goOn := func(name string, run func() error) {
		for first := true; first || time.Now().Before(until) && !h.t.Failed(); first = false {
			if err := run(); err != nil {
				h.t.Errorf("%s: %v", name, err)
			}
			runs.Add(1)
		}
	}
	for i := range clients {
		name := fmt.Sprintf("loop-%d", i)
		loops.Go(func() { goOn(name, func() error { return h.api.runOnce(h.t.Context(), h.image("busybox"), name) }) })
	}
	for i := range commandLoops {
		text := fmt.Sprintf("command %d\n", i)
		loops.Go(func() {
			goOn(text, func() error {
				out, stderr, err := h.host.docker.Try("run", "--rm", h.image("busybox"), "echo", text[:len(text)-1])
				if err == nil && out != text {
					err = fmt.Errorf("it wrote %q", out)
				}
				return wrap(err, "docker run --rm says %q", stderr)
			})
		})
	}
	for _, c := range chores {
		for i := range choreLoops {
			name := fmt.Sprintf("%s-%d", c.name, i)
			loops.Go(func() {
				goOn(name, func() error {
					ctx, cancel := context.WithTimeout(h.t.Context(), roundTime)
					defer cancel()
					return c.do(ctx, h, name, newSteps())
				})
			})
		}
	}
	loops.Wait()
	if err := h.api.clearBuilds(h.t.Context()); err != nil {
		h.t.Error(err)
	}
	return runs.Load()
}

// runOnce does what docker run --rm does.
func (e engine) runOnce(ctx context.Context, image, name string) error {
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	id, err := e.create(ctx, spec{name, image, []string{"sh", "-c", "echo " + name + "; exit 5"}, func(c *container.Config, hc *container.HostConfig) {
		c.AttachStdout, c.AttachStderr, hc.AutoRemove = true, true, true
	}})
	if err != nil {
		return err
	}
	a, err := e.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return wrap(err, "attach")
	}
	defer a.Close()
	defer context.AfterFunc(ctx, a.Close)()
	// It returns when the headers are there: then the waiter is registered.
	w := e.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
	if err := e.start(ctx, id); err != nil {
		return err
	}
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, a.Reader); err != nil {
		return wrap(err, "read")
	}
	select {
	case res := <-w.Result:
		if res.StatusCode != 5 || out.String() != name+"\n" {
			return fmt.Errorf("it ended with %d and wrote %q", res.StatusCode, out.String())
		}
		return nil
	case err := <-w.Error:
		return wrap(err, "wait")
	}
}
