package rollout

import (
	"cmp"
	"fmt"
	"reflect"
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

// rewind has what seems to come be now: the clock was set back. Else a node that was heard
// of then would be there until that time comes, and keep its turn.
func (d *decision) rewind() {
	for i := range d.Nodes {
		n := &d.Nodes[i]
		if d.early(n.Heard) {
			n.Heard = d.now
		}
		if d.early(n.Turn) {
			n.Turn = d.now
		}
	}
	if d.early(d.Rollout.Listen) {
		d.Rollout.Listen = d.now
	}
}

// early says whether a time that was is to come, and not only because clocks of servers
// differ.
func (d *decision) early(t time.Time) bool { return tooEarly(t, d.now) }

func tooEarly(t, now time.Time) bool { return t.Sub(now) > returning }

// forget leaves out who was not heard of for too long; if there are many, who is not
// there any more, in the end also those that have failed: that was judged when it was
// heard of. So there are never more than MaxNodes.
func (d *decision) forget() {
	drop := func(gone func(*Node) bool) {
		d.Nodes = slices.DeleteFunc(d.Nodes, func(n Node) bool {
			is := gone(&n)
			if is {
				d.Gone = append(d.Gone, n.Name)
			}
			return is
		})
	}
	silent := func(n *Node) bool { return n.Slot == "" && !d.there(n, d.now) }
	drop(func(n *Node) bool { return d.now.Sub(n.Heard) > KeepNodes })
	if len(d.Nodes) >= MaxNodes {
		drop(func(n *Node) bool { return silent(n) && n.Failed == "" })
	}
	if len(d.Nodes) >= MaxNodes {
		drop(silent)
	}
}

// listen forgives silence if no node is there at all: the registry was away, or the way
// to it, and not all of them; or its clock was set. A node that deploys has its time anew.
func (d *decision) listen() {
	for i := range d.Nodes {
		if d.there(&d.Nodes[i], d.now) {
			return
		}
	}
	for i := range d.Nodes {
		d.Rollout.Listen = d.now
		if n := &d.Nodes[i]; n.Slot != "" {
			n.Turn = d.now
		}
	}
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

// hear takes in what a node reports. If that is what it has said lately, nothing changes.
func (d *decision) hear(r *Report) {
	i, known := d.find(r.Node)
	if !known {
		d.Gone = slices.DeleteFunc(d.Gone, func(name string) bool { return name == r.Node })
		d.Nodes = slices.Insert(d.Nodes, i, Node{Name: r.Node})
	}
	n := &d.Nodes[i]
	old := n.Follower
	n.By, n.Labels, n.Running, n.Target, n.State, n.Error = r.By, r.Labels, r.Running, r.Target, r.State, r.Error
	n.Interval = time.Duration(r.Interval)
	if len(n.Labels) == 0 {
		n.Labels = nil // as it is read again
	}
	if !sameTime(n.Since, r.Since) {
		n.Since = r.Since
	}
	d.judgeReport(n)
	d.recordLate(n, &old)
	d.Log = r.State == NodeFailed && !reflect.DeepEqual(old, n.Follower)
	if !known || d.now.Sub(old.Heard) >= n.Interval/4 || !reflect.DeepEqual(old, n.Follower) {
		n.Heard = d.now
	}
}

// judgeReport says what a report means for the node's turn.
func (d *decision) judgeReport(n *Node) {
	digest := d.Rollout.Digest
	switch {
	case n.runs(digest):
		n.Slot, n.Failed, n.Cause = "", "", ""
	case n.State == NodeFailed && n.Target == digest && !n.past():
		n.Slot, n.Failed, n.Cause = "", digest, cmp.Or(n.Error, "failed")
	case n.State == NodeDeploying && n.Slot == "" && n.Failed != digest:
		n.Slot, n.Turn = n.Target, d.now // it did not ask, or that is not known any more
	case n.State != NodeDeploying && n.Slot != digest:
		n.Slot = "" // it is through with another version
	}
}

// past says whether the failure that the node reports was before this attempt.
func (n *Node) past() bool { return !n.Past.IsZero() && sameTime(n.Since, n.Past) }

// sameTime compares times of which one may have been stored, and be a little off.
func sameTime(a, b time.Time) bool { return a.Sub(b).Abs() < time.Millisecond }

// lapse takes turns away from who is not heard of, or takes too long.
func (d *decision) lapse() {
	for i := range d.Nodes {
		n := &d.Nodes[i]
		if n.Slot == "" {
			continue
		}
		var cause string
		switch {
		case !d.there(n, d.now):
			cause = "was not heard of while it deployed"
		case n.Heard.Sub(n.Turn) > d.policy.Deadline: // it has said since that it is not done
			cause = fmt.Sprintf("was not done after %s", d.policy.Deadline)
		default:
			continue
		}
		if n.Slot == d.Rollout.Digest && !returns(&d.Rollout) {
			n.Failed, n.Cause = n.Slot, cause
		}
		n.Slot = ""
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

// settle says what is to be told to whom, and when time alone may change something.
func (d *decision) settle() {
	r := &d.Rollout
	if r.Digest == "" {
		return
	}
	r.Free = 0
	if open, _ := d.open(); open && d.broken == nil && (r.State == Running || r.State == Done) {
		most, taken := d.turns()
		r.Free = max(0, most-taken)
	}
	if r.Free > d.was.Free {
		r.Freed++
	}
	news := r.Digest != d.was.Digest || r.State != d.was.State || r.Reason != d.was.Reason || r.Attempt != d.was.Attempt || r.PausedBy != d.was.PausedBy
	if news {
		r.Changed++
		r.Updated = d.now
	}
	next := d.next()
	later := !next.IsZero() && next.After(d.was.Next) && d.was.Next.After(d.now)
	r.Next = d.was.Next
	d.Changed = news || *r != d.was
	if d.Changed || !later && !next.Equal(d.was.Next) {
		r.Next, d.Changed = next, true
	}
	d.markDirty()
}

func (d *decision) markDirty() {
	i := 0
	for _, n := range d.Nodes {
		for i < len(d.before) && d.before[i].Name < n.Name {
			i++
		}
		if i == len(d.before) || d.before[i].Name != n.Name || !reflect.DeepEqual(d.before[i], n) {
			d.Dirty = append(d.Dirty, n.Name)
		}
	}
}

// open says whether nodes may begin to deploy at this time, and until when that is so;
// zero for ever.
func (d *decision) open() (open bool, until time.Time) {
	if d.policy.Window == nil {
		return true, time.Time{}
	}
	return d.policy.Window.At(d.now)
}

// next is when time alone may change something; zero for never: a turn ends, the window
// opens or closes, or a node is not there any more that the rollout waits for.
func (d *decision) next() (next time.Time) {
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t.Add(time.Millisecond).UTC().Truncate(time.Microsecond) // when it is over
		}
	}
	r := &d.Rollout
	waiting := false
	for i := range d.Nodes {
		n := &d.Nodes[i]
		if n.Slot != "" {
			sooner(d.turnEnds(n))
		}
		if r.State == Running && d.there(n, d.now) && d.chosen(n) && !n.runs(r.Digest) {
			waiting = true
			sooner(d.turnEnds(n))
		}
	}
	if waiting {
		_, until := d.open()
		sooner(until)
	}
	return next
}
