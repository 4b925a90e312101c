package rollout

import (
	"reflect"
	"time"
)

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
