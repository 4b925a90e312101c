package runner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// longStep is a step that does not end by itself, and whose process is told from
// others by its arguments.
const longStep = "FROM IMAGE\nRUN echo begun; exec sleep 98765\n"

// begin begins a build with a step that does not end, and returns when the step
// runs.
func (b *builder) begin(t *testing.T, dir string) (stop func(syscall.Signal)) {
	t.Helper()
	end := b.docker.Service(func(log string) error {
		if strings.Contains(log, "begun\n") && b.sleeping(t) {
			return nil
		}
		return errors.New("the step has not begun")
	}, slices.Concat(b.args, []string{dir})...)
	return func(s syscall.Signal) { end(s) }
}

// sleeping says whether the step runs.
func (b *builder) sleeping(t *testing.T) bool {
	t.Helper()
	out, _, _ := berthtest.NewCommand(t, "ps").On(b.Machine).Try("-eo", "args")
	return strings.Contains(out, "sleep 98765")
}

func (b *builder) ends(t *testing.T, how string) {
	t.Helper()
	if err := eventually(func() error {
		if b.sleeping(t) {
			return fmt.Errorf("%s: the step goes on", how)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestBuildEnds has builds end early: the client gives up or is killed, the runner
// is stopped or killed. Nothing is left of them, and the cache is of use.
func TestBuildEnds(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	before := h.usedCensus()
	for name, b := range map[string]*builder{"buildx": h.buildx(t), "classic": h.classic(t)} {
		t.Run(name, func(t *testing.T) {
			good := b.context(t, "Dockerfile", "FROM IMAGE\nRUN cat /proc/sys/kernel/random/uuid >/uuid\n")
			b.build(t, "-t", "kept:1", good)
			dir := b.context(t, "Dockerfile", longStep)
			for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
				b.begin(t, dir)(s)
				b.ends(t, s.String())
			}
			stop := b.begin(t, dir)
			h.Kill()
			h.Restart()
			stop(syscall.SIGKILL)
			b.ends(t, "a killed runner")
			b.build(t, "-t", "kept:2", good)
			uuid := func(image string) string { return b.says(t, "run", "--rm", image, "cat", "/uuid") }
			if uuid("kept:1") != uuid("kept:2") {
				t.Error("the cache is lost")
			}
			stop = b.begin(t, dir)
			h.Stop()
			b.ends(t, "a stopped runner")
			stop(syscall.SIGKILL)
			h.Restart()
			b.says(t, "rmi", "kept:1", "kept:2")
			b.says(t, "builder", "prune", "-a", "-f")
		})
	}
	// What is left is the empty cache, and what a container makes of a host.
	h.docker.Run("run", "--rm", h.image("busybox"), "true")
	berthtest.Settle(t, noCache(before), func() berthtest.Census { return noCache(h.Census(t)) })
}

// noCache is a census without the files that the build cache is kept in.
func noCache(c berthtest.Census) berthtest.Census {
	var rest berthtest.Census
	for _, line := range c {
		if !strings.Contains(line, "/build/") && !strings.HasSuffix(line, "/build") {
			rest = append(rest, line)
		}
	}
	return rest
}
