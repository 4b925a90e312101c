package rollout

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"time"
)

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
