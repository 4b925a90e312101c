package deploy

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// marks are what others wait for of a service. They are closed, too, if it fails.
type marks struct {
	started, healthy, done chan struct{}
}

// bringAll brings the containers of all services up, each after what it needs, and
// returns when all have held their gate. Services that are replaced in batches are in
// service then; all others have no traffic yet.
func (d *deployment) bringAll(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	all := map[string]*marks{}
	for _, c := range d.changes {
		if c.action != actionDrop {
			all[c.svc.Name] = &marks{started: make(chan struct{}), healthy: make(chan struct{}), done: make(chan struct{})}
		}
	}
	var first error
	var once sync.Once
	var g sync.WaitGroup
	for _, c := range d.changes {
		m := all[c.svc.Name]
		if m == nil {
			continue
		}
		g.Go(func() {
			err := d.bringAfter(ctx, c, m, all)
			if err != nil && ctx.Err() == nil && d.optional(c.svc) {
				d.say(EventWarning, c.svc.Name, "", "goes on without it: "+err.Error())
				c.lame, err = true, nil
			}
			if err != nil {
				once.Do(func() { first = err })
				cancel(err)
			}
			closeAll(m.started, m.healthy, m.done)
		})
	}
	g.Wait()
	return first
}

func closeAll(chans ...chan struct{}) {
	for _, ch := range chans {
		select {
		case <-ch:
		default:
			close(ch)
		}
	}
}

// optional says whether all who need a service can do without.
func (d *deployment) optional(svc *Service) bool {
	needed := false
	for _, other := range d.to.Stack.Services {
		for _, need := range other.Needs {
			if need.Service != svc.Name {
				continue
			}
			if !need.Optional {
				return false
			}
			needed = true
		}
	}
	return needed
}

// bringAfter waits for what a service needs, and brings it up.
func (d *deployment) bringAfter(ctx context.Context, c *change, m *marks, all map[string]*marks) error {
	for _, need := range c.svc.Needs {
		other := all[need.Service]
		if other == nil || d.quick { // who is returned to finds those that have the traffic
			continue
		}
		waits := map[Condition]chan struct{}{NeedHealthy: other.healthy, NeedCompleted: other.done}[need.Condition]
		if waits == nil {
			waits = other.started
		}
		select {
		case <-waits:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	switch c.action {
	case actionJob:
		return d.tolerate(c.svc, d.job(ctx, c))
	case actionDone, actionDrop:
		return nil
	case actionKeep:
		if !c.fresh() {
			return nil
		}
	case actionReplace:
		if c.svc.Strategy == Rolling {
			return d.roll(ctx, c)
		}
	case actionAdd:
	}
	return d.beside(ctx, c, m)
}

// beside brings up the replicas of a service that are missing or stopped, beside those
// that have the traffic, and waits until they have held their gate.
func (d *deployment) beside(ctx context.Context, c *change, m *marks) error {
	run, err := d.launch(ctx, c, c.have, c.missing)
	c.have = merge(c.have, run)
	if err != nil {
		return err
	}
	if !c.had {
		// Others find it by its name from now on. Its ports come with the switch.
		early := entry(c.svc, even(c.have))
		early.Ports = nil
		if err := d.live.set(ctx, early); err != nil {
			return err
		}
	}
	close(m.started)
	held, err := d.watchAll(ctx, c.svc, run)
	defer stopWatching(held)
	if err == nil {
		err = d.readyAll(ctx, held)
	}
	if err := d.tolerate(c.svc, err); err != nil {
		return err
	}
	close(m.healthy)
	if err != nil || d.quick {
		return nil
	}
	d.sayWatched(c.svc, held)
	return d.tolerate(c.svc, d.steadyAll(ctx, held, c.svc.Update.Monitor))
}

// launch creates the replicas that are missing and starts all that do not run. It
// returns those that it has started.
func (d *deployment) launch(ctx context.Context, c *change, have []replica, numbers []int) ([]replica, error) {
	var run []replica
	for _, r := range have {
		if !r.running() {
			run = append(run, r)
		}
	}
	stopped := len(run)
	run = append(run, make([]replica, len(numbers))...)
	err := each(len(run), func(i int) error {
		r := &run[i]
		if i >= stopped {
			made, err := d.u.create(ctx, c.svc, c.version, d.number, numbers[i-stopped])
			if err != nil {
				return err
			}
			*r = made
		}
		if i < stopped && d.live.leadsTo(r.ID) { // it has ended just now: nobody may be led to it until it is ready
			d.u.falls(r.ID)
			if err := d.u.adjust(ctx); err != nil {
				return err
			}
		}
		d.say(EventStep, c.svc.Name, r.Name, "start "+r.Name)
		if err := d.u.start(ctx, r); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &gateError{svc: c.svc, container: *r, reason: "it does not start: " + err.Error(), log: d.u.lastLines(ctx, r.ID), exit: d.u.exitCode(ctx, r.ID)}
		}
		return nil
	})
	return slices.DeleteFunc(run, func(r replica) bool { return r.ID == "" }), err
}

func (u *unit) exitCode(ctx context.Context, id string) int {
	info, err := u.m.engine.InspectContainer(ctx, id, false)
	if err != nil || info.State == nil {
		return 0
	}
	return info.State.ExitCode
}

// merge puts replicas in the place of those with the same number.
func merge(have, run []replica) []replica {
	list := slices.DeleteFunc(slices.Clone(have), func(h replica) bool {
		return slices.ContainsFunc(run, func(r replica) bool { return r.Number == h.Number })
	})
	list = append(list, run...)
	slices.SortFunc(list, func(a, b replica) int { return cmp.Compare(a.Number, b.Number) })
	return list
}

// watchAll begins to watch containers.
func (d *deployment) watchAll(ctx context.Context, svc *Service, list []replica) ([]*watched, error) {
	var held []*watched
	for _, r := range list {
		w, err := d.u.look(ctx, svc, r)
		if err != nil {
			return held, err
		}
		held = append(held, w)
	}
	return held, nil
}

func stopWatching(held []*watched) {
	for _, w := range held {
		w.cancel()
	}
}

func (d *deployment) readyAll(ctx context.Context, held []*watched) error {
	return eachHeld(ctx, held, func(ctx context.Context, w *watched) error {
		return w.ready(ctx, func(why string) { d.say(EventDetail, w.svc.Name, w.Name, why) })
	})
}

// sayWatched tells that the containers of a service hold their gate, and for how long
// they have to.
func (d *deployment) sayWatched(svc *Service, held []*watched) {
	if svc.Update.Monitor <= 0 || len(held) == 0 {
		return
	}
	state := "up"
	switch {
	case held[0].check != nil:
		state = "healthy"
	case len(held[0].ports) > 0:
		state = "accepts connections"
	}
	d.say(EventStep, svc.Name, "", state+"; watched for "+svc.Update.Monitor.String())
}

func (d *deployment) steadyAll(ctx context.Context, held []*watched, span time.Duration) error {
	return eachHeld(ctx, held, func(ctx context.Context, w *watched) error { return w.steady(ctx, span) })
}

// eachHeld holds the gates of containers at the same time, until one does not hold.
func eachHeld(ctx context.Context, held []*watched, hold func(context.Context, *watched) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	_ = each(len(held), func(i int) error {
		err := hold(ctx, held[i])
		if err != nil {
			cancel(err)
		}
		return err
	})
	return context.Cause(ctx)
}

// tolerate drops the error of a gate if its service wants to go on all the same.
func (d *deployment) tolerate(svc *Service, err error) error {
	var gate *gateError
	if errors.As(err, &gate) && svc.Update.FailureAction == OnFailureContinue {
		d.say(EventWarning, svc.Name, gate.container.Name, "goes on in spite of it: "+gate.reason)
		return nil
	}
	return err
}
