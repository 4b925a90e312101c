package rollout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/berth-registry/berth/storage"
)

// robot is a node as it behaves: it does what it is told, crashes, and says what it sees.
type robot struct {
	name    string
	running string // digest
	target  string
	state   string
	since   time.Time
	dead    bool
	bad     map[string]bool // versions that it cannot run
	told    Answer
}

func (r *robot) become(state, target string, now time.Time) {
	r.state, r.target, r.since = state, target, now
}

// obey has the robot do what it was told.
func (r *robot) obey(a Answer, now time.Time) {
	r.told = a
	if a.Digest != r.running && (a.Digest != r.target || r.state == NodeFailed) || a.Digest == r.running && r.state == NodeDeploying {
		r.become(NodeDeploying, a.Digest, now)
	}
}

// work ends what the robot deploys.
func (r *robot) work(now time.Time) {
	switch {
	case r.state != NodeDeploying:
	case r.bad[r.target]:
		r.become(NodeFailed, r.target, now)
	default:
		r.running = r.target
		r.become(NodeRunning, "", now)
	}
}

// crowd is a tag and its robots.
type crowd struct {
	*play
	rnd    *rand.Rand
	robots []*robot
	most   int
	trace  []string
}

// say has a robot report, and obey; it fails the test if there are too many turns then.
func (c *crowd) say(r *robot) {
	c.t.Helper()
	before := map[string]string{}
	for _, n := range c.s.Nodes {
		before[n.Name] = n.Slot
	}
	a := c.decide(&Report{Node: r.name, State: r.state, Running: r.running, Target: r.target, Since: r.since, Interval: Duration(30 * time.Second), By: "n"})
	taken, fresh := 0, false
	for i := range c.s.Nodes {
		n := &c.s.Nodes[i]
		if c.s.busy(n, c.now) {
			taken++
		}
		fresh = fresh || n.Name == r.name && n.Slot != "" && before[n.Name] == "" && r.state != NodeDeploying
	}
	if fresh && taken > c.most && !returns(&c.s.Rollout) {
		c.t.Fatalf("%s has its turn, and %d of %d deploy\n%v", r.name, taken, c.most, c.trace)
	}
	if c.s.Rollout.State == Paused && fresh {
		c.t.Fatalf("%s has its turn while it is paused", r.name)
	}
	c.remembers()
	r.obey(a, c.now)
}

// remembers fails the test if what has failed last is not told of as long as it should be.
func (c *crowd) remembers() {
	c.t.Helper()
	r, f := &c.s.Rollout, c.s.Failure
	bad := r.Digest
	if returns(r) {
		bad = r.Bad
	}
	switch {
	case r.State == Done && f != nil:
		c.t.Fatalf("it is done, and told of: %+v\n%v", *f, c.trace)
	case r.State == Failed && (f == nil || f.Digest != bad || f.Reason == "" || len(f.Nodes) == 0):
		c.t.Fatalf("%+v has failed, and told of: %+v\n%v", *r, f, c.trace)
	}
	for i := range c.s.Nodes {
		n := &c.s.Nodes[i]
		if n.Failed == "" || n.Failed != r.Digest || returns(r) || r.State == Done {
			continue
		}
		if !slices.ContainsFunc(f.Nodes, func(x storage.FailedNode) bool { return x.Name == n.Name && x.Cause == n.Cause }) {
			c.t.Fatalf("%s has failed, and told of: %+v\n%v", n.Name, f, c.trace)
		}
	}
}

// happen has something happen.
func (c *crowd) happen(versions *int) {
	r := c.robots[c.rnd.IntN(len(c.robots))]
	what := c.rnd.IntN(100)
	c.trace = append(c.trace, fmt.Sprint(what, r.name, c.s.Rollout.State))
	switch {
	case what < 45:
		if !r.dead {
			c.say(r)
		}
	case what < 70:
		if !r.dead {
			r.work(c.now)
		}
	case what < 74:
		r.dead = true
	case what < 84 && r.dead:
		r.dead = false
		if r.state == NodeDeploying { // it begins where it was
			r.become(NodeRunning, "", c.now)
		}
	case what < 86:
		*versions++
		c.tag(fmt.Sprint(*versions), fmt.Sprintf(`{"parallel":%d,"max_failures":%d}`, c.most, c.rnd.IntN(3)))
		for _, r := range c.robots {
			r.bad[v(fmt.Sprint(*versions))] = *versions%3 == 0 && c.rnd.IntN(2) == 0
		}
	case what < 87:
		if to, err := undoable(&c.s); err == nil {
			c.s.Tag = Target{Digest: to, Policy: fmt.Sprintf(`{"parallel":%d}`, c.most), Moved: c.now}
		}
	case what < 88:
		_ = pause(&c.s, "x", c.now)
	case what < 90:
		_ = resume(&c.s, c.now)
	default:
		c.now = c.now.Add(time.Duration(c.rnd.IntN(20)) * time.Second)
		c.decide(nil)
	}
}

// settleAll has all that is alive report and work, until nothing happens any more.
func (c *crowd) settleAll() {
	if c.s.Rollout.PausedBy != "" {
		_ = resume(&c.s, c.now)
	}
	for range 12 + 6*len(c.robots) {
		c.now = c.now.Add(5 * time.Second)
		c.decide(nil)
		for _, r := range c.robots {
			if !r.dead {
				c.say(r)
				r.work(c.now)
			}
		}
	}
}

// TestModel has many nodes follow a tag that moves, crash, come back, and fail, in any
// order. There are never more turns than there may be; and when all is quiet, all that
// is alive runs the version of the tag, or there was no earlier one to return to. What has
// failed is told of meanwhile.
func TestModel(t *testing.T) {
	ends := map[string]int{}
	for seed := range uint64(150) {
		c := &crowd{play: newPlay(t), rnd: rand.New(rand.NewPCG(seed, 9))}
		c.most = 1 + c.rnd.IntN(3)
		for i := range 2 + c.rnd.IntN(8) {
			c.robots = append(c.robots, &robot{name: fmt.Sprintf("n%02d", i), state: NodeRunning, bad: map[string]bool{}})
		}
		versions := 1
		c.tag("1", fmt.Sprintf(`{"parallel":%d}`, c.most))
		for range 300 {
			c.happen(&versions)
		}
		c.settleAll()
		r := &c.s.Rollout
		ends[r.State]++
		if r.State == Failed && !returns(r) && r.Previous == "" {
			continue // nobody ever ran anything
		}
		policy, err := ParsePolicy([]byte(r.Policy))
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		for _, x := range c.robots {
			switch {
			case x.dead || x.running == c.s.Tag.Digest:
			case x.bad[c.s.Tag.Digest] && returns(r): // it could not run that before, either
			case x.bad[c.s.Tag.Digest] && failed < policy.MaxFailures:
				failed++
			default:
				t.Fatalf("seed %d: %s is %s %.15s -> %.15s (%+v); the rollout is %+v", seed, x.name, x.state, x.running, x.target, x.told, *r)
			}
		}
	}
	t.Log(ends)
	for _, state := range []string{Done, Failed, Undone} {
		if ends[state] == 0 {
			t.Errorf("no run ended %s: the model plays too little", state)
		}
	}
}
