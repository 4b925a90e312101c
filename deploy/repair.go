package deploy

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

const probePatience = 5 * time.Second // that a repair has for one health check

// backoff is when a container may be started again that does not stay up.
type backoff struct {
	next time.Time
	wait time.Duration
}

// repair makes what runs what the revision in service says, and says whether it is to
// be done again soon.
func (u *unit) repair(ctx context.Context) (later bool, err error) {
	rec := u.record()
	switch {
	case len(rec.Revisions) == 0:
		return false, nil
	case rec.paused():
		return false, nil
	case rec.Current == 0:
		return false, errors.Join(u.sweep(ctx, false), u.prune())
	}
	v, err := u.stack(rec.Current)
	if err != nil {
		return false, err
	}
	restarted, failed := u.restart(ctx, v, rec.Current)
	pending, err := u.rebalance(ctx, v)
	if err != nil {
		return true, errors.Join(failed, err)
	}
	return restarted || pending, errors.Join(failed, u.sweep(ctx, false), u.prune())
}

// restart creates the replicas that are missing and starts those that have ended, and
// says whether some wait for that.
func (u *unit) restart(ctx context.Context, v *versioned, revision int) (later bool, err error) {
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return false, err
	}
	var errs []error // what one service cannot have does not keep another from it
	for i := range v.Stack.Services {
		svc := &v.Stack.Services[i]
		if svc.Job {
			continue
		}
		list := v.target(u.free(found), svc)
		for _, n := range missing(list, svc.Replicas) {
			r, err := u.create(ctx, svc, v.version(svc.Name), revision, n)
			if err != nil {
				errs = append(errs, err)
				break
			}
			list = append(list, r)
		}
		for _, r := range list {
			if r.active() {
				continue
			}
			u.falls(r.ID)
			if u.startAgain(r.ID) {
				later = true
				continue
			}
			if err := u.adjust(ctx); err != nil {
				errs = append(errs, err)
			}
			if err := u.start(ctx, &r); err != nil {
				errs = append(errs, err)
				continue
			}
			u.m.log.InfoContext(ctx, "start a container again", "stack", u.name, "container", r.Name)
		}
	}
	return later, errors.Join(errs...)
}

// startAgain says whether the start of a container has to wait, because it was started
// just before.
func (u *unit) startAgain(id string) (wait bool) {
	const first, most = time.Second, time.Minute
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	b := u.tries[id]
	switch {
	case b == nil || now.Sub(b.next) > most:
		u.tries[id] = &backoff{next: now.Add(first), wait: first}
		return false
	case now.Before(b.next):
		return true
	}
	b.wait = min(2*b.wait, most)
	b.next = now.Add(b.wait)
	return false
}

// rebalance gives the traffic to the replicas that are ready, and tells the edge where
// they are. It says whether some are not ready yet.
func (u *unit) rebalance(ctx context.Context, v *versioned) (pending bool, err error) {
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return false, err
	}
	u.mu.Lock()
	told, known := u.told, u.told != nil
	for id := range u.fell {
		if !slices.ContainsFunc(found, func(r replica) bool { return r.ID == id }) {
			delete(u.fell, id)
			delete(u.tries, id)
		}
	}
	u.mu.Unlock()
	if !known {
		if told, err = u.m.engine.Traffic(ctx, Owner(u.name)); err != nil {
			return false, err
		}
	}
	services := []runner.Service{}
	for i := range v.Stack.Services {
		svc := &v.Stack.Services[i]
		if svc.Job {
			continue
		}
		backends, wait := u.weigh(ctx, svc, v.target(u.free(found), svc), weightsOf(told, svc.Name))
		services = append(services, entry(svc, backends))
		pending = pending || wait
	}
	if !known || !reflect.DeepEqual(told, services) {
		if err := u.setTraffic(ctx, services); err != nil {
			return pending, err
		}
	}
	if u.m.edge == nil {
		return pending, nil
	}
	routes, err := u.routesOf(ctx, v.Stack, services)
	if err != nil {
		return pending, err
	}
	u.mu.Lock()
	same := u.routed && reflect.DeepEqual(u.routes, routes)
	u.mu.Unlock()
	if same {
		return pending, nil
	}
	return pending, u.tellRoutes(ctx, routes)
}

func weightsOf(services []runner.Service, name string) map[string]int {
	weights := map[string]int{}
	for _, s := range services {
		if s.Name == name {
			for _, b := range s.Backends {
				weights[b.Container] = b.Weight
			}
		}
	}
	return weights
}

// weigh is even for replicas whose weights were known: one that had none gets its part
// when it is ready.
func (u *unit) weigh(ctx context.Context, svc *Service, list []replica, before map[string]int) (backends []runner.Backend, pending bool) {
	backends = even(list)
	some := false
	for i, r := range list {
		if !r.running() || r.Health == container.Unhealthy {
			backends[i].Weight = 0
			continue
		}
		fall := u.fallOf(r.ID)
		// What was found may be of before a fall: its health, too.
		if again := fall != 0 || before[r.ID] == 0 && r.Health != container.Healthy; again && !u.isReady(ctx, svc, r) {
			backends[i].Weight, pending = 0, true
			continue
		}
		u.stands(r.ID, fall)
		some = true
	}
	if !some {
		for i := range backends {
			backends[i].Weight = 1
		}
	}
	return backends, pending
}

// isReady looks once whether a container is ready.
func (u *unit) isReady(ctx context.Context, svc *Service, r replica) bool {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	w, err := u.look(ctx, svc, r)
	if err != nil {
		return false
	}
	defer w.cancel()
	why, err := w.try(ctx)
	return why == "" && err == nil
}
