package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/berth-registry/berth/runner"
)

// alike says whether two versions of a stack are deployed alike: when images are pulled
// makes no difference, nor does how the Compose file says it.
func alike(a, b *versioned) (bool, error) {
	first, err := a.text()
	if err != nil {
		return false, err
	}
	second, err := b.text()
	return bytes.Equal(first, second), err
}

func (v *versioned) text() ([]byte, error) {
	s := copyOf(*v.Stack)
	s.Source = ""
	for i := range s.Services {
		s.Services[i].Pull = ""
	}
	return json.Marshal(versioned{Stack: &s, Versions: v.Versions})
}

// again says whether a version from somewhere is the one in service over again.
func again(rec record, current *versioned, from string, to *versioned) (bool, error) {
	if current == nil || rec.revision(rec.Current).From != from || current.Stack.Source != to.Stack.Source {
		return false, nil
	}
	return alike(current, to)
}

// unchanged says whether the version is the one in service over again, and all of that
// is as it should be. One that is amiss is deployed again.
func (d *deployment) unchanged(ctx context.Context) (bool, error) {
	if d.in.rollback != 0 {
		return false, nil
	}
	if same, err := again(d.u.record(), d.from, d.in.from, d.to); err != nil || !same {
		return false, err
	}
	for _, c := range d.changes {
		if c.action == actionJob || c.action == actionKeep && c.fresh() || len(drift(c.svc, c.have)) > 0 {
			return false, nil
		}
	}
	found, err := d.u.m.find(ctx, d.u.name)
	return len(leaving(d.u.free(found), targets(d.to, found))) == 0, err
}

// keep leaves the revision in service that this one is over again, and forgets this one.
// The traffic is told once more where to go.
func (d *deployment) keep(ctx context.Context) (Revision, error) {
	rec := d.u.record()
	services, _ := d.services()
	if err := d.u.setTraffic(ctx, services); err != nil {
		return Revision{}, err
	}
	if err := d.u.setRoutes(ctx, d.to.Stack, services); err != nil {
		return Revision{}, err
	}
	err := d.u.update(func(r *record) {
		r.Under = nil
		r.Revisions = slices.DeleteFunc(r.Revisions, func(rev Revision) bool { return rev.Number == d.number })
	})
	if err != nil {
		return Revision{}, err
	}
	d.say(EventStep, "", "", fmt.Sprintf("nothing has changed since revision %d", rec.Current))
	rev := *rec.revision(rec.Current)
	rev.Unchanged = true
	return rev, nil
}

// before returns the revision that a rollback leads to; with 0, the last one that had
// the traffic and is not the present one over again.
func (u *unit) before(rec record, to int) (*Revision, error) {
	if to != 0 {
		return chosenBefore(rec, to)
	}
	if rec.paused() && rec.Current != 0 {
		return rec.revision(rec.Current), nil
	}
	for i, rev := range slices.Backward(rec.Revisions) {
		if rev.Number >= rec.Current || rev.Outcome != Deployed {
			continue
		}
		same, err := u.alikeTo(rec.Current, rev.Number)
		if err != nil {
			return nil, err
		}
		if !same {
			return &rec.Revisions[i], nil
		}
	}
	return nil, runner.Errorf(runner.ErrNotFound, "stack %s has no revision before this one that differs from it", rec.Name)
}

// alikeTo says whether two revisions are alike.
func (u *unit) alikeTo(a, b int) (bool, error) {
	first, err := u.stack(a)
	if err != nil {
		return false, err
	}
	second, err := u.stack(b)
	if err != nil {
		return false, err
	}
	return alike(first, second)
}
