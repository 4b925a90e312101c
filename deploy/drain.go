package deploy

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/berth-registry/berth/runner"
)

const (
	forever    = math.MaxInt64          // longer than anything takes
	leastDrain = time.Second            // what was connected just before is counted by then
	drainLook  = 250 * time.Millisecond // how often connections are counted
)

// draining is a container that is being drained.
type draining struct {
	cancel   context.CancelFunc
	over     chan struct{}
	stopping bool // there is no way back
}

// drainOf is how a replica of a service is let go of, from now on.
func drainOf(svc *Service, r replica) drain {
	now := time.Now().UTC()
	return drain{
		ID: r.ID, Name: r.Name, Service: r.Service, Since: now, Until: now.Add(max(svc.Drain, leastDrain)),
		Grace: svc.StopGrace, Edge: len(svc.Routes) > 0,
	}
}

// awaitQuiet waits until a container has no connections by published ports and no
// requests of the HTTP edge, or its time is over.
func (u *unit) awaitQuiet(ctx context.Context, dr drain, least time.Duration) error {
	begin := time.Now()
	for {
		if !time.Now().Before(dr.Until) {
			return nil
		}
		if time.Since(begin) >= least && u.quiet(ctx, dr) {
			return nil
		}
		if err := pause(ctx, min(drainLook, max(time.Until(dr.Until), time.Millisecond))); err != nil {
			return err
		}
	}
}

// quiet says whether a container has nothing more to do, as far as can be known.
func (u *unit) quiet(ctx context.Context, dr drain) bool {
	n, err := u.m.engine.Connections(ctx, dr.ID)
	switch {
	case errors.Is(err, runner.ErrNotFound):
		return true
	case err != nil || n > 0:
		return false
	case !dr.Edge:
		return true
	case u.m.edge == nil: // an edge that this daemon does not know may serve still
		return false
	}
	ctx, cancel := context.WithDeadline(ctx, dr.Until)
	defer cancel()
	n, err = u.m.edge.Requests(ctx, dr.ID)
	return err == nil && n == 0
}

// drainAll drains what the record says in the background.
func (u *unit) drainAll() {
	rec := u.record()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, dr := range rec.Draining {
		if u.drains[dr.ID] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(u.m.lifetime())
		d := &draining{cancel: cancel, over: make(chan struct{})}
		u.drains[dr.ID] = d
		u.m.work.Go(func() {
			defer close(d.over)
			defer cancel()
			u.drain(ctx, dr, d)
		})
	}
}

// drain waits for the end of a container's connections, and stops it.
func (u *unit) drain(ctx context.Context, dr drain, d *draining) {
	defer func() {
		u.mu.Lock()
		delete(u.drains, dr.ID)
		u.mu.Unlock()
	}()
	if u.awaitQuiet(ctx, dr, leastDrain) != nil {
		return // the daemon ends
	}
	u.mu.Lock()
	wanted := ctx.Err() != nil
	d.stopping = !wanted
	u.mu.Unlock()
	if wanted {
		return
	}
	for {
		err := u.stop(ctx, dr.ID, &Service{StopGrace: dr.Grace})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			break
		}
		u.m.log.WarnContext(ctx, "stop a container of an old version", "stack", u.name, "container", dr.Name, "error", err)
		if pause(ctx, time.Second) != nil {
			return
		}
	}
	if err := u.forgetDrain([]string{dr.ID}); err != nil {
		u.m.log.WarnContext(ctx, "record a drained container", "stack", u.name, "container", dr.Name, "error", err)
	}
	u.m.poke(u)
}

func (u *unit) forgetDrain(ids []string) error {
	return u.update(func(r *record) {
		r.Draining = slices.DeleteFunc(r.Draining, func(d drain) bool { return slices.Contains(ids, d.ID) })
	})
}

// stopPatience is how long a deployment that wants a container back waits for its stop.
const stopPatience = 200 * time.Millisecond

// undrain takes containers back that are wanted again. Those that are being stopped
// already are waited for; it returns those whose stop is not over in time, which do not
// come back.
func (u *unit) undrain(ctx context.Context, wanted []string, patience time.Duration) (late []string, err error) {
	soon, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var back []string
	for _, dr := range u.record().Draining {
		if !slices.Contains(wanted, dr.ID) {
			continue
		}
		over := u.takeBack(dr.ID)
		select {
		case <-over:
			back = append(back, dr.ID)
		case <-soon.Done():
			late = append(late, dr.ID)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if len(back) == 0 {
		return late, nil
	}
	return late, u.forgetDrain(back)
}

// takeBack ends the draining of a container, unless it is being stopped. It returns
// what is closed when nobody drains it any more.
func (u *unit) takeBack(id string) (over <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	d := u.drains[id]
	switch {
	case d == nil:
		nobody := make(chan struct{})
		close(nobody)
		return nobody
	case !d.stopping:
		d.cancel()
	}
	return d.over
}

// free are the containers found that are not being drained: one that is does not serve
// again.
func (u *unit) free(found []replica) []replica {
	rec := u.record()
	return slices.DeleteFunc(slices.Clone(found), func(r replica) bool {
		return slices.ContainsFunc(rec.Draining, func(d drain) bool { return d.ID == r.ID })
	})
}
