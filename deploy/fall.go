package deploy

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/berth-registry/berth/runner"
)

// How a replica that has ended is looked at until it is ready again.
const (
	firstRise = 50 * time.Millisecond // grows to lastRise
	lastRise  = time.Second
)

// falls notes that a container has ended, and takes it out of the traffic in the
// background, until it is ready again: the engine would lead connections to it as soon
// as it is started, whether it listens or not. If all replicas of a service have
// ended, they keep their parts: whichever comes first is better than none.
func (u *unit) falls(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.falling++
	u.fell[id] = u.falling
	if u.rising[id] {
		return
	}
	u.rising[id] = true
	u.m.work.Go(func() { u.rise(u.m.lifetime(), id) })
}

// fallOf identifies the last end of a container; 0: it was ready since.
func (u *unit) fallOf(id string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.fell[id]
}

// stands notes that a container is ready again after an end.
func (u *unit) stands(id string, fall int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fell[id] == fall {
		delete(u.fell, id)
	}
}

// rise waits for a container that has ended to be ready again, as long as it is
// behind a service. It needs no turn: it goes on while the stack is deployed.
func (u *unit) rise(ctx context.Context, id string) {
	for wait := firstRise; ; wait = min(wait*3/2, lastRise) {
		if err := u.adjust(ctx); err != nil && ctx.Err() == nil {
			u.m.log.DebugContext(ctx, "take a container that has ended out of the traffic", "stack", u.name, "container", id, "error", err)
		}
		fall, over := u.risen(id)
		if over {
			return
		}
		if u.isUp(ctx, id) {
			u.stands(id, fall)
			u.m.poke(u)
			continue
		}
		if pause(ctx, wait) != nil {
			return
		}
	}
}

// risen says whether there is no more to wait for.
func (u *unit) risen(id string) (fall int, over bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	behind := slices.ContainsFunc(u.wanted, func(s runner.Service) bool {
		return slices.ContainsFunc(s.Backends, func(b runner.Backend) bool { return b.Container == id })
	})
	fall = u.fell[id]
	if over = fall == 0 || !behind; over {
		delete(u.rising, id)
	}
	return fall, over
}

// isUp looks once whether a container of a version that may have traffic is ready.
func (u *unit) isUp(ctx context.Context, id string) bool {
	found, err := u.m.find(ctx, u.name)
	i := slices.IndexFunc(found, func(r replica) bool { return r.ID == id })
	if err != nil || i < 0 || !found[i].running() {
		return false
	}
	rec := u.record()
	numbers := []int{rec.Current}
	if rec.Under != nil {
		numbers = append(numbers, rec.Under.Revision)
	}
	for _, number := range numbers {
		if v, err := u.stack(number); err == nil && v.version(found[i].Service) == found[i].Version {
			return u.isReady(ctx, v.Stack.service(found[i].Service), found[i])
		}
	}
	return false
}

// adjust brings the traffic in line with which replicas have ended.
func (u *unit) adjust(ctx context.Context) error {
	u.traffic.Lock()
	defer u.traffic.Unlock()
	u.mu.Lock()
	wanted, told := u.wanted, u.told
	u.mu.Unlock()
	if told == nil {
		var err error
		if wanted, err = u.m.engine.Traffic(ctx, Owner(u.name)); err != nil {
			return err
		}
		told = wanted
	}
	if len(wanted) == 0 || reflect.DeepEqual(u.standing(wanted), told) {
		return nil
	}
	return u.sendTraffic(ctx, wanted)
}

// standing is the traffic without the replicas that have ended, where there are others.
func (u *unit) standing(services []runner.Service) []runner.Service {
	u.mu.Lock()
	defer u.mu.Unlock()
	services = slices.Clone(services)
	for i, s := range services {
		rest, left := slices.Clone(s.Backends), 0
		for j := range rest {
			if u.fell[rest[j].Container] != 0 {
				rest[j].Weight = 0
			}
			left += rest[j].Weight
		}
		if left > 0 {
			services[i].Backends = rest
		}
	}
	return services
}
