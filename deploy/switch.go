package deploy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/berth-registry/berth/runner"
)

// canary moves the traffic of the services that want it in steps. The new version has
// to hold its gate in each.
func (d *deployment) canary(ctx context.Context) error {
	if d.quick {
		return nil
	}
	var birds []*change
	steps := 0
	for _, c := range d.changes {
		if !c.lame && c.action == actionReplace && c.svc.Strategy == Canary && len(c.old) > 0 && len(c.have) > 0 {
			birds = append(birds, c)
			steps = max(steps, len(c.svc.Steps))
		}
	}
	for i := range steps {
		var span time.Duration
		for _, c := range birds {
			step := c.svc.Steps[min(i, len(c.svc.Steps)-1)]
			span = max(span, step.Pause)
			d.say(EventStep, c.svc.Name, "", fmt.Sprintf("%d %% of the traffic for %s", step.Weight, step.Pause))
			before := d.from.stack().service(c.svc.Name)
			if err := d.shift(ctx, entry(before, split(c.old, c.have, step.Weight))); err != nil {
				return err
			}
		}
		if err := d.watchFor(ctx, birds, func(*Service) time.Duration { return span }); err != nil {
			return err
		}
	}
	return nil
}

// services are what the traffic has of the new version, and its containers by service.
func (d *deployment) services() (services []runner.Service, target map[string][]string) {
	target = map[string][]string{}
	for _, c := range d.changes {
		if c.svc.Job || c.action == actionDrop {
			continue
		}
		services = append(services, entry(c.svc, even(c.have)))
		target[c.svc.Name] = ids(c.have)
	}
	return services, target
}

// switchOver moves the traffic of the whole stack to the new version.
func (d *deployment) switchOver(ctx context.Context) error {
	services, target := d.services()
	err := d.u.update(func(r *record) {
		r.Under.Phase, r.Under.Target = phaseSwitch, target
	})
	if err != nil {
		return err
	}
	d.say(EventStep, "", "", fmt.Sprintf("switch the traffic to revision %d", d.number))
	if err := d.u.setTraffic(ctx, services); err != nil {
		return err
	}
	return d.u.setRoutes(ctx, d.to.Stack, services)
}

// gateAgain holds the gate of what was brought up, now that it has the traffic.
func (d *deployment) gateAgain(ctx context.Context) error {
	if d.quick {
		return nil
	}
	changed := slices.DeleteFunc(slices.Clone(d.changes), func(c *change) bool {
		return c.lame || c.action != actionAdd && c.action != actionReplace
	})
	var span time.Duration
	for _, c := range changed {
		span = max(span, c.svc.Update.Monitor)
	}
	if span > 0 {
		d.say(EventStep, "", "", fmt.Sprintf("revision %d has the traffic; watched for %s", d.number, span))
	}
	return d.watchFor(ctx, changed, func(svc *Service) time.Duration { return svc.Update.Monitor })
}

// watchFor watches the new containers of services for a while.
func (d *deployment) watchFor(ctx context.Context, changes []*change, span func(*Service) time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_ = each(len(changes), func(i int) error {
		c := changes[i]
		held, err := d.watchAll(ctx, c.svc, c.have)
		defer stopWatching(held)
		if err == nil {
			err = d.steadyAll(ctx, held, span(c.svc))
		}
		if err = d.tolerate(c.svc, err); err != nil {
			cancel(err)
		}
		return err
	})
	return context.Cause(ctx)
}

// commit makes the new version the one in service, and lets the old one go.
func (d *deployment) commit(ctx context.Context) (Revision, error) {
	return d.u.commit(ctx, d.number, d.from, d.to)
}

// commit makes a revision that has the traffic the one in service. The containers
// that run and are not of it are drained.
func (u *unit) commit(ctx context.Context, number int, from, to *versioned) (Revision, error) {
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return Revision{}, err
	}
	var leave []drain
	for _, r := range leaving(found, targets(to, found)) {
		svc := from.stack().service(r.Service)
		if svc == nil {
			svc = to.Stack.service(r.Service)
		}
		if svc == nil {
			svc = &Service{Name: r.Service}
		}
		leave = append(leave, drainOf(svc, r))
	}
	err = u.update(func(r *record) {
		r.Current, r.Under = number, nil
		rev := r.revision(number)
		rev.Ended, rev.Outcome = time.Now().UTC(), Deployed
		for _, dr := range leave {
			if !slices.ContainsFunc(r.Draining, func(other drain) bool { return other.ID == dr.ID }) {
				r.Draining = append(r.Draining, dr)
			}
		}
	})
	if err != nil {
		return Revision{}, err
	}
	u.drainAll()
	rec := u.record()
	return *rec.revision(number), nil
}

// targets returns the containers that a version has.
func targets(v *versioned, found []replica) []replica {
	var list []replica
	if v == nil {
		return nil
	}
	for i := range v.Stack.Services {
		list = append(list, v.target(found, &v.Stack.Services[i])...)
	}
	return list
}
