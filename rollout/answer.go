package rollout

import (
	"fmt"
	"time"
)

// answer says what a node is to do, and gives it its turn if it may have it.
func (d *decision) answer(n *Node) {
	reason, waits := d.waitsFor(n)
	d.waits = waits
	if reason != "" {
		d.Answer.Digest, d.Answer.Reason = n.Running, reason
		return
	}
	r := &d.Rollout
	d.Answer.Digest = r.Digest
	if !returns(r) && !n.runs(r.Digest) && n.Slot != r.Digest {
		n.Slot, n.Turn = r.Digest, d.now
	}
}

// waitsFor says why a node is not to run now what the tag names; nothing if it is. waits
// says that it only waits for its turn.
func (d *decision) waitsFor(n *Node) (reason string, waits bool) {
	r := &d.Rollout
	switch {
	case d.Tag.Digest == "" && r.Digest == "":
		return "there is no such tag", false
	case d.Tag.Digest == "":
		return "the tag was deleted", false
	case n.runs(r.Digest):
		return "", false
	case !d.chosen(n):
		return "not chosen by labels", false
	case returns(r):
		return "", false
	case n.State == NodeFailed && n.Failed == r.Digest:
		return "it failed here: it waits for another version", false
	case n.Slot == r.Digest: // what it has begun it may end
		return "", false
	case r.State == Paused:
		return joined("paused", r.Reason), false
	case r.State == Failed:
		return r.Reason, false
	case d.broken != nil:
		return "the policy cannot be read: " + d.broken.Error(), false
	}
	if open, until := d.open(); !open {
		return "outside the window, which opens at " + until.In(d.policy.Window.Zone).Format(time.RFC3339), true
	}
	if most, taken := d.turns(); taken >= most && !d.busy(n, d.now) {
		return fmt.Sprintf("not its turn: %d of %d %s", taken, most, deploy(most)), true
	}
	return "", false
}

func joined(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + ": " + reason
}

func deploy(n int) string {
	if n == 1 {
		return "node deploys"
	}
	return "nodes deploy"
}
