package deploy

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/berth-registry/berth/runner"
)

const (
	leastDrain = time.Second            // what was connected just before is counted by then
	drainLook  = 250 * time.Millisecond // how often connections are counted
)

// draining is a container that is being drained.
type draining struct {
	cancel context.CancelFunc
	over   chan struct{}
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
			u.drain(ctx, dr)
		})
	}
}

// drain waits for the end of a container's connections, and stops it.
func (u *unit) drain(ctx context.Context, dr drain) {
	defer func() {
		u.mu.Lock()
		delete(u.drains, dr.ID)
		u.mu.Unlock()
	}()
	if u.awaitQuiet(ctx, dr, leastDrain) != nil {
		return // it is wanted again, or the daemon ends
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

// undrain takes containers back that are wanted again. One that is being stopped
// already is waited for.
func (u *unit) undrain(ctx context.Context, wanted []string) error {
	rec := u.record()
	var back []string
	for _, dr := range rec.Draining {
		if slices.Contains(wanted, dr.ID) {
			back = append(back, dr.ID)
		}
	}
	if len(back) == 0 {
		return nil
	}
	for _, id := range back {
		u.mu.Lock()
		d := u.drains[id]
		u.mu.Unlock()
		if d == nil {
			continue
		}
		d.cancel()
		select {
		case <-d.over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return u.forgetDrain(back)
}
