package runner

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
)

var (
	kills = flag.Int("kills", 200, "how often TestKill kills the runner")
	soak  = flag.Duration("soak", 0, "how long TestKill and the kills of TestDeployUnderLoad go on at least")
	seeds = flag.Uint64("seed", rand.Uint64(), "of what TestKill does")
)

const (
	roundTime = 2 * time.Minute // for what a round does: more is a hang
	leftRound = 10              // rounds from one census to the next
)

// TestKill kills the runner with SIGKILL at random instants while clients
// create, start, stop, remove, run, exec and pull, or do chores, and starts it
// again: what was
// acknowledged is so, what runs goes on running with nothing lost, and of what
// was half done nothing is left.
//
// It runs alone: how soon the runner is killed is what counts here, and others
// would only make that later.
func TestKill(t *testing.T) {
	h := newHost(t, berthtest.MachineOptions{})
	k := &killer{host: h, builder: h.buildx(t), rand: rand.New(rand.NewPCG(*seeds, 0))}
	t.Logf("seed %d: repeat with -seed", *seeds)

	h.takeLogs()
	before := h.usedCensus()
	for _, c := range chores { // what stays of the build cache is there now
		if err := errors.Join(c.do(t.Context(), k.builder, "first", newSteps()), h.api.clearBuilds(t.Context())); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	if diff := noCache(before).Diff(noCache(h.rest())); diff != "" {
		t.Errorf("after each chore the host is not as it was:\n%s", diff)
	}
	before = h.rest()
	k.steady = startSteady(h)
	// The history of a build that a kill ends stays until BuildKit's lease of it does.
	census := func() berthtest.Census { return withoutHistory(k.steady.census()) }
	steady := census()
	deadline := time.Now().Add(*soak)
	for n := 0; (n < *kills || time.Now().Before(deadline)) && !t.Failed(); n++ {
		k.round(n)
		if n%leftRound == leftRound-1 {
			berthtest.Settle(t, steady, census)
		}
	}
	k.steady.end()
	left := func(c berthtest.Census) berthtest.Census { return withoutHistory(slices.DeleteFunc(c, ofLastStep)) }
	berthtest.Settle(t, left(before), func() berthtest.Census { return left(h.Census(t)) })
}

// ofLastStep says whether a line of a census is of a file that the last step of a
// build has left for the next one, which a new runner does not find.
func ofLastStep(line string) bool {
	return strings.HasSuffix(line, "/build/executor/resolv.conf") || strings.HasSuffix(line, "/build/executor/runc-log.json")
}

// usedCensus is the census of a host that has the image that the tests run, and
// on which a container has been.
func (h *host) usedCensus() berthtest.Census {
	h.t.Helper()
	if _, err := h.api.pull(h.t.Context(), h.image("busybox"), ""); err != nil {
		h.t.Fatal(err)
	}
	h.docker.Run("run", "--rm", h.image("busybox"), "true")
	return h.rest()
}

// rest is the census of a host that has come to rest.
func (h *host) rest() berthtest.Census {
	h.t.Helper()
	c := h.Census(h.t)
	idle := h.docker.Run("ps", "--quiet") == ""
	if err := eventually(func() error { // the kernel takes its time with what is gone
		last := c
		c = h.Census(h.t)
		if diff := last.Diff(c); diff != "" || len(c.Zombies()) > 0 {
			return fmt.Errorf("the host does not come to rest: %s%q", diff, c.Zombies())
		}
		if ends := c.ContainerLinks(); idle && len(ends) > 0 {
			return fmt.Errorf("interfaces of containers that are gone: %q", ends)
		}
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// killer runs clients against a runner and kills it while they are at work.
type killer struct {
	*host
	builder *builder
	rand    *rand.Rand
	steady  *steady
}

// round lets clients work until the runner is killed under them, starts it
// again, and looks at what it makes of what they did.
func (k *killer) round(n int) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), roundTime)
	defer cancel()
	var killed atomic.Bool
	var clients sync.WaitGroup
	workers, most := newWorkers(k.host, n), 250
	if n%3 == 2 {
		workers, most = newChoreWorkers(k.builder), 750 // they take longer
	}
	for _, w := range workers {
		clients.Go(func() {
			// Only a runner that is killed may break a connection.
			if err := w.work(ctx); !killed.Load() {
				k.t.Errorf("round %d: %s: %v", n, w.name, err)
			}
		})
	}
	time.Sleep(time.Duration(1+k.rand.IntN(most)) * time.Millisecond)
	killed.Store(true)
	k.Kill()
	clients.Wait()
	k.steady.unattended()
	if k.rand.IntN(8) == 0 { // and again while it recovers
		k.Launch()
		time.Sleep(time.Duration(k.rand.IntN(60)) * time.Millisecond)
		k.Kill()
	}
	k.Restart()
	for _, w := range workers {
		if err := w.steps.check(ctx); err != nil {
			k.t.Errorf("round %d: %s: %v", n, w.name, err)
		}
		for _, s := range w.subjects {
			if err := s.check(ctx, k.host); err != nil {
				k.t.Errorf("round %d: %s: asked for %s, acknowledged %q: %v", n, s.name, s.asked, s.done, err)
			}
		}
	}
	k.steady.check(ctx)
	k.clear(ctx)
}

// clear removes what the clients of a round have left.
func (k *killer) clear(ctx context.Context) {
	k.t.Helper()
	all, err := k.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		k.t.Error(err)
		return
	}
	var removers sync.WaitGroup
	for _, c := range all.Items {
		if k.steady.has(c.ID) {
			continue
		}
		removers.Go(func() {
			// One that was to be removed at its end may go by itself meanwhile.
			if err := k.api.remove(ctx, c.ID); err != nil && !goneOrGoing(err) {
				k.t.Errorf("%v: it was %s", err, c.Status)
			}
		})
	}
	removers.Wait()
	if err := k.clearKept(ctx); err != nil {
		k.t.Error(err)
	}
	if err := k.api.removeImage(ctx, k.image("layers")); err != nil && !errdefs.IsNotFound(err) {
		k.t.Error(err)
	}
}

// clearKept removes the networks, volumes, images and the build cache that chores
// have left.
func (k *killer) clearKept(ctx context.Context) error {
	networks, err := k.api.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("type", "custom")})
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range networks.Items {
		if n.Name != steadyNetwork {
			_, err := k.api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
			errs = append(errs, wrap(err, "remove network %s", n.Name))
		}
	}
	volumes, err := k.api.VolumeList(ctx, client.VolumeListOptions{})
	if err != nil {
		return err
	}
	for _, v := range volumes.Items {
		_, err := k.api.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{})
		errs = append(errs, wrap(err, "remove volume %s", v.Name))
	}
	for _, c := range chores {
		if err := k.api.removeImage(ctx, c.image()); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, k.api.clearBuilds(ctx))...)
}
