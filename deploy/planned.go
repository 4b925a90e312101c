package deploy

import (
	"context"
	"errors"
	"slices"

	"github.com/berth-registry/berth/runner"
)

// Plan returns what Deploy would do: no steps if it would leave the revision in service
// as it is. Nothing is pulled for it: an image that is not on the host counts as another
// one. Errors are those of Deploy before it begins, and of routes that the edge would not
// take.
func (m *Manager) Plan(ctx context.Context, req Request) (Plan, error) {
	if err := check(&req.Stack, m.edge != nil); err != nil {
		return Plan{}, err
	}
	if err := m.checkRoutes(ctx, &req.Stack); err != nil {
		return Plan{}, err
	}
	stack := copyOf(req.Stack)
	o := observed{networks: map[string]bool{}, volumes: map[string]bool{}, images: map[string]string{}}
	rec := record{Name: stack.Name}
	u, err := m.usable(ctx, stack.Name)
	switch {
	case err == nil:
		rec = u.record()
		if rec.Current != 0 {
			if o.from, err = u.stack(rec.Current); err != nil {
				return Plan{}, err
			}
		}
	case !errors.Is(err, runner.ErrNotFound):
		return Plan{}, err
	}
	o.jobs = rec.Jobs
	if o.found, err = m.find(ctx, stack.Name); err != nil {
		return Plan{}, err
	}
	if err := m.observeObjects(ctx, &stack, &o); err != nil {
		return Plan{}, err
	}
	for i := range stack.Services {
		svc := &stack.Services[i]
		ref, d, err := m.pinned(ctx, svc)
		if err != nil || svc.Pull == PullAlways && svc.Digest == "" {
			continue // it is to be pulled
		}
		o.images[svc.Name] = ref
		pin(svc, ref, d)
	}
	to := &versioned{Stack: &stack}
	if to.Versions, err = versions(&stack); err != nil {
		return Plan{}, err
	}
	p, err := planOf(o, to, rec.next())
	if err != nil || !p.keepsAll() {
		return p, err
	}
	if same, err := again(rec, o.from, req.From, to); err != nil || !same {
		return p, err
	}
	return Plan{Stack: stack.Name, Revision: rec.Current, Steps: []Step{}}, nil
}

// keepsAll says whether all containers serve on, and there are no others.
func (p Plan) keepsAll() bool {
	return !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind != StepKeep && s.Kind != StepSwitch })
}

// observeObjects finds out which networks and volumes of a stack are there.
func (m *Manager) observeObjects(ctx context.Context, stack *Stack, o *observed) error {
	for _, n := range stack.Networks {
		have, err := m.engine.InspectNetwork(ctx, n.Name)
		if o.networks[n.Name] = err == nil; err == nil {
			if err := sameConfig("network", n.Name, have.Labels, configOf(n.Request), n.External); err != nil {
				return err
			}
		}
	}
	for _, v := range stack.Volumes {
		have, err := m.engine.InspectVolume(ctx, v.Name)
		if o.volumes[v.Name] = err == nil; err == nil {
			if err := sameConfig("volume", v.Name, have.Labels, configOf(v.Request), v.External); err != nil {
				return err
			}
		}
	}
	return nil
}
