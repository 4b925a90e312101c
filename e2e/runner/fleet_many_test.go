package runner

import (
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"
)

var away = flag.Duration("away", time.Minute, "how long TestFleetOfTwenty has no registry")

// TestFleetOfTwenty has twenty nodes follow a tag, five at a time: one is dead, the
// registry is away in the middle of a rollout, and a version that fails stops at the
// first five.
func TestFleetOfTwenty(t *testing.T) {
	t.Parallel()
	const size, parallel = 20, 5
	c := newCrew(t)
	c.parallel = parallel
	for i := range size {
		c.join(fmt.Sprintf("node%d", i), "role: web")
	}
	first := c.publish("v1", "[/usr/bin/web]")
	c.converges(first, "v1")

	dead := c.nodes[size-1]
	dead.Kill()
	second := c.publish("v2", "[/usr/bin/web]")
	if err := eventually(func() error { // some have it, others have not
		if n := c.serving("v2"); n == 0 {
			return errors.New("no node serves the new version")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c.registry.Kill()
	began := c.serving("v2")
	for end := time.Now().Add(*away); time.Now().Before(end); {
		for _, n := range c.nodes {
			if got := n.serves(); got != "seedtest web v1" && got != "seedtest web v2" {
				t.Fatalf("without the registry %s serves %q", n.name, got)
			}
		}
		time.Sleep(*away / 20)
	}
	if n := c.serving("v2"); began == size-1 || n > began+parallel {
		t.Errorf("%d nodes served the new version when the registry went, and %d at the end of the outage", began, n)
	}
	c.registry.Restart()
	c.converges(second, "v2", dead.name)
	c.rolls(func(r rolled) bool { return r.State == "done" }) // what was never done is not returned to

	bad := c.publish("v1", `[sh, -c, "echo there is no database >&2; exit 3"]`)
	c.returns(bad, second)
	c.converges(second, "v2", dead.name)
	dead.Restart()
	c.converges(second, "v2")
	if n := len(c.deployed(bad)); n == 0 || n > parallel {
		t.Errorf("%d nodes have deployed what fails, want %d at most", n, parallel)
	}
}

// serving counts the nodes that serve a version.
func (c *crew) serving(version string) (n int) {
	for _, m := range c.nodes {
		if m.serves() == "seedtest web "+version {
			n++
		}
	}
	return n
}
