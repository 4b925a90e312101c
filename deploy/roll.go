package deploy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/berth-registry/berth/runner"
)

// roll replaces the replicas of a service in batches, each of which takes the traffic
// when it has held its gate.
func (d *deployment) roll(ctx context.Context, c *change) error {
	size := c.svc.Update.Parallelism
	most := max(len(c.old), c.svc.Replicas)
	if size <= 0 {
		size = max(most, 1)
	}
	var in []replica
	for first := 0; first < most; first += size {
		if first > 0 && !d.quick {
			if err := pause(ctx, c.svc.Update.Delay); err != nil {
				return err
			}
		}
		leave := c.old[min(first, len(c.old)):min(first+size, len(c.old))]
		rest := c.old[min(first+size, len(c.old)):]
		var err error
		if in, err = d.batch(ctx, c, first, size, in, leave, rest); err != nil {
			return err
		}
	}
	c.have = in
	return nil
}

// batch replaces some replicas: leave are those that go, rest those whose turn comes
// later, and in those that are in service already.
func (d *deployment) batch(ctx context.Context, c *change, first, size int, in, leave, rest []replica) ([]replica, error) {
	ours := func(n int) bool { return n > first && n <= first+size }
	have := slices.DeleteFunc(slices.Clone(c.have), func(r replica) bool { return !ours(r.Number) })
	numbers := slices.DeleteFunc(slices.Clone(c.missing), func(n int) bool { return !ours(n) })
	d.say(EventStep, c.svc.Name, "", fmt.Sprintf("replace %d of %d", min(first+size, c.svc.Replicas), c.svc.Replicas))
	if !c.svc.Update.StartFirst {
		if err := d.balance(ctx, c, slices.Concat(in, rest)); err != nil {
			return in, err
		}
		if err := d.leave(ctx, c, leave); err != nil {
			return in, err
		}
	}
	run, err := d.launch(ctx, c, have, numbers)
	if err != nil {
		return in, err
	}
	if err := d.tolerate(c.svc, d.hold(ctx, c.svc, run)); err != nil {
		return in, err
	}
	in = slices.Concat(in, merge(have, run))
	if err := d.balance(ctx, c, slices.Concat(in, rest)); err != nil {
		return in, err
	}
	if c.svc.Update.StartFirst {
		return in, d.leave(ctx, c, leave)
	}
	return in, nil
}

// hold waits until containers have held their gate.
func (d *deployment) hold(ctx context.Context, svc *Service, list []replica) error {
	held, err := d.watchAll(ctx, svc, list)
	defer stopWatching(held)
	if err == nil {
		err = d.readyAll(ctx, held)
	}
	if err != nil || d.quick {
		return err
	}
	d.sayWatched(svc, held)
	return d.steadyAll(ctx, held, svc.Update.Monitor)
}

// balance gives the traffic of a service that is being replaced to some replicas. Its
// ports and names are still those of the version before.
func (d *deployment) balance(ctx context.Context, c *change, list []replica) error {
	before := d.from.stack().service(c.svc.Name)
	return d.shift(ctx, entry(before, even(list)))
}

// shift sets the traffic of a service of the version before, and its routes.
func (d *deployment) shift(ctx context.Context, s runner.Service) error {
	if err := d.live.set(ctx, s); err != nil {
		return err
	}
	d.live.mu.Lock()
	defer d.live.mu.Unlock()
	return d.u.setRoutes(ctx, d.from.stack(), d.live.services)
}

// leave stops replicas that have lost the traffic, when their connections have ended.
func (d *deployment) leave(ctx context.Context, c *change, list []replica) error {
	before := d.from.stack().service(c.svc.Name)
	least := leastDrain
	if d.quick {
		least = 0
	}
	return each(len(list), func(i int) error {
		dr := drainOf(before, list[i])
		if err := d.u.awaitQuiet(ctx, dr, least); err != nil {
			return err
		}
		d.say(EventStep, c.svc.Name, list[i].Name, "stop "+list[i].Name)
		return d.u.stop(ctx, list[i].ID, before)
	})
}

// pause waits.
func pause(ctx context.Context, span time.Duration) error {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
