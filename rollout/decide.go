package rollout

import (
	"slices"
	"time"

	"github.com/berth-registry/berth/storage"
)

// Outcome is what Decide has decided.
type Outcome struct {
	State
	Answer Answer // to the report, if there was one
	// Dirty are the names of the nodes that are not as they were, Gone of those that are
	// not known any more; Changed says that the rollout is not as it was.
	Dirty, Gone []string
	Changed     bool
	// Log says that the log of the report is to be kept.
	Log bool

	policy Policy
	broken error // the policy
}

// Decide says what becomes of a state at a time, when a node has reported; nil is nobody,
// but time has passed. If Rollout.Back is set then, the tag is to be moved back to
// Rollout.Previous, and Decide to be asked again. It changes nothing of s.
func Decide(s State, r *Report, now time.Time) Outcome {
	d := &decision{now: now.UTC().Truncate(time.Microsecond), was: s.Rollout, before: s.Nodes}
	d.State = s
	d.Nodes = slices.Clone(s.Nodes)
	d.rewind()
	d.forget()
	d.listen()
	if r != nil || d.Rollout.Digest != "" { // else nobody follows it
		d.follow()
	}
	d.policy, d.broken = ParsePolicy([]byte(d.Rollout.Policy))
	name := ""
	if r != nil {
		name = r.Node
		d.hear(r)
	}
	d.lapse()
	d.recordFailures()
	d.judge()
	if r != nil {
		d.answer(d.node(name))
	}
	d.settle()
	if r != nil {
		d.Answer.Tag, d.Answer.Rollout = d.Tag.Digest, AnswerRollout{d.Rollout.State, d.Rollout.Attempt}
		d.Answer.Version = version(d.Tag.Digest, &d.Rollout, d.waits)
	}
	return d.Outcome
}

// decision is an Outcome that comes to be.
type decision struct {
	Outcome
	now    time.Time
	was    storage.Rollout
	before []Node
	waits  bool // the node for its turn
}

func (d *decision) find(name string) (int, bool) {
	return slices.BinarySearchFunc(d.Nodes, name, compareName)
}

func (d *decision) node(name string) *Node {
	i, _ := d.find(name)
	return &d.Nodes[i]
}

// follow begins a rollout if the tag names something else. If that is what all nodes ran
// before, they return to it. While there is no tag, all stays as it is.
func (d *decision) follow() {
	r, t := &d.Rollout, d.Tag
	if t.Digest == "" || t.Digest == r.Digest {
		return
	}
	d.finish()
	began := t.Moved
	if began.IsZero() {
		began = d.now
	}
	if r.Digest != "" && t.Digest == r.Previous {
		r.Bad = r.Digest
		r.Good = t.Digest
		if !r.Back { // somebody did it by hand
			r.State, r.Reason = Undone, ""
			d.endFailure("the tag was moved back")
		}
	} else {
		r.Previous = r.Good
		r.State, r.Reason, r.Bad = Running, "", ""
		if r.PausedBy != "" {
			r.State = Paused
		}
	}
	r.Digest, r.Policy, r.By, r.Started, r.Back = t.Digest, t.Policy, t.By, began.UTC(), false
	if r.State == Undone || r.State == Failed {
		r.PausedBy = ""
	}
	d.begin()
}

// finish has a rollout done that is so for as long as nobody has asked: who was waited
// for is not there any more. What comes in its place is to return to it.
func (d *decision) finish() {
	r := &d.Rollout
	d.policy, d.broken = ParsePolicy([]byte(r.Policy))
	if r.State != Running || d.broken != nil {
		return
	}
	if failed, running, waiting := d.count(); failed <= d.policy.MaxFailures && running > 0 && waiting == 0 {
		r.Good, d.Failure = r.Digest, nil
	}
}

// begin has what failed before not count any more.
func (d *decision) begin() { beginAttempt(&d.Rollout, d.Nodes) }

func beginAttempt(r *storage.Rollout, nodes []Node) {
	r.Attempt++
	for i := range nodes {
		n := &nodes[i]
		n.Past = time.Time{}
		if n.State == NodeFailed && n.Target == r.Digest {
			n.Past = n.Since
		}
		n.Failed, n.Cause = "", ""
	}
}

// judge ends a rollout: all nodes run the version, or too many have failed.
func (d *decision) judge() {
	r := &d.Rollout
	if r.State != Running {
		return
	}
	if d.broken != nil {
		r.State, r.Reason = Paused, "its policy cannot be read: "+d.broken.Error()
		return
	}
	failed, running, waiting := d.count()
	switch {
	case failed > d.policy.MaxFailures:
		r.State, r.Reason = Failed, "stopped after "+failures(failed)
		d.endFailure(r.Reason)
		switch {
		case d.policy.OnFailure == OnFailurePause:
		case r.Previous == "" || r.Previous == r.Digest:
			r.Reason += "; there is no earlier version to return to"
		default:
			r.Back = true
		}
	case running > 0 && waiting == 0:
		r.State, r.Good, d.Failure = Done, r.Digest, nil
	}
}

// count counts the nodes that are chosen: those that failed, dead or alive, and of those
// that are there the ones that run the version, and the ones that neither run it nor
// have failed.
func (d *decision) count() (failed, running, waiting int) {
	for i := range d.Nodes {
		switch n := &d.Nodes[i]; {
		case !d.chosen(n):
		case n.Failed == d.Rollout.Digest:
			failed++
		case n.runs(d.Rollout.Digest) && d.there(n, d.now):
			running++
		case d.there(n, d.now):
			waiting++
		}
	}
	return failed, running, waiting
}

// chosen says whether a node is to get the version at all.
func (d *decision) chosen(n *Node) bool {
	r := &d.Rollout
	if returns(r) && (n.Running == r.Bad || n.Target == r.Bad || n.Slot == r.Bad) {
		return true
	}
	for name, value := range d.policy.Nodes {
		if have, ok := n.Labels[name]; !ok || have != value {
			return false
		}
	}
	return true
}

// turns are how many nodes may deploy, and how many do.
func (d *decision) turns() (most, taken int) {
	there := 0
	for i := range d.Nodes {
		n := &d.Nodes[i]
		if d.there(n, d.now) && d.chosen(n) {
			there++
		}
		if d.busy(n, d.now) {
			taken++
		}
	}
	return d.policy.Parallel.Of(there), taken
}
