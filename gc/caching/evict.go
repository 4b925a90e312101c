package caching

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// Eviction is what a plan would remove.
type Eviction struct {
	Mirror string
	registry.Evicted
}

// Plan says what Evict would remove now, mirror by mirror. It ends with the first
// error. It changes nothing but what is written down about pulls.
func (e *Evictor) Plan(ctx context.Context) iter.Seq2[Eviction, error] {
	return func(yield func(Eviction, error) bool) {
		if err := e.flush(ctx); err != nil {
			yield(Eviction{}, err)
			return
		}
		for _, m := range e.list() {
			evicted, err := e.planMirror(ctx, m)
			if err != nil {
				yield(Eviction{}, err)
				return
			}
			for _, one := range evicted {
				if !yield(Eviction{m.Name, one}, nil) {
					return
				}
			}
		}
	}
}

func (e *Evictor) planMirror(ctx context.Context, m Mirror) ([]registry.Evicted, error) {
	over, err := e.isOver(ctx, m)
	if !over || err != nil {
		return nil, err
	}
	return e.reg.PlanEviction(ctx, e.eviction(m))
}

// Evict makes the caches smaller that hold more than their quota, until they hold 95 %
// of it, or all that is left is in use. It waits for another one that runs. An error
// of one mirror does not keep it from the next.
func (e *Evictor) Evict(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case e.turn <- struct{}{}:
	}
	defer func() { <-e.turn }()
	var errs []error
	for _, m := range e.list() {
		err := e.evictMirror(ctx, m)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			e.count(m, func(s *Stats) { s.Failures++ })
			errs = append(errs, fmt.Errorf("mirror %s: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Evictor) evictMirror(ctx context.Context, m Mirror) error {
	over, err := e.isOver(ctx, m)
	if !over || err != nil {
		if err == nil {
			e.count(m, func(s *Stats) { s.Stuck = false })
		}
		return err
	}
	if err := e.flush(ctx); err != nil {
		return err
	}
	ev := e.eviction(m)
	var removed, bytes int64
	for {
		some, err := e.reg.LeastUsed(ctx, ev, atOnce)
		if err != nil {
			return err
		}
		gone, left, err := e.reg.Evict(ctx, ev, some)
		var freed int64
		for _, one := range gone {
			freed += one.Bytes
		}
		removed, bytes = removed+int64(len(gone)), bytes+freed
		stuck := err == nil && len(gone) == 0 && (len(some) == 0 || left > ev.Target)
		e.count(m, func(s *Stats) {
			s.Evicted, s.Bytes, s.Stuck = s.Evicted+int64(len(gone)), s.Bytes+freed, stuck
			if len(gone) > 0 {
				s.Last = e.now()
			}
		})
		if err != nil {
			return err
		}
		if len(gone) == 0 || left <= ev.Target {
			break
		}
	}
	if removed > 0 {
		e.log.InfoContext(ctx, "a cache was full: removed what was pulled longest ago", "mirror", m.Name, "removed", removed, "bytes", bytes, "quota", m.Quota)
	}
	return nil
}

// isOver says whether a cache is known to hold more than its quota.
func (e *Evictor) isOver(ctx context.Context, m Mirror) (bool, error) {
	if m.Quota <= 0 {
		return false, nil
	}
	u, err := e.reg.CacheUsage(ctx, m.Prefix)
	return u.Counted && u.Bytes > m.Quota, err
}

// eviction is how much room is made for a mirror: some more than it needs, so that the
// next pull does not have everything looked at again.
func (e *Evictor) eviction(m Mirror) registry.Eviction {
	since := e.now().Add(-inUse)
	ev := registry.Eviction{Prefix: m.Prefix, Target: m.Quota / 20 * 19, Before: since}
	if e.pulls != nil {
		ev.Before = since.Add(-e.pulls.Slack())
		ev.Spare = func(repo string, d digest.Digest) bool { return e.pulls.Lately(repo, d, since) }
	}
	return ev
}

func (e *Evictor) flush(ctx context.Context) error {
	if e.pulls == nil {
		return nil
	}
	return e.pulls.Flush(ctx)
}

func (e *Evictor) list() []Mirror {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mirrors
}

// count changes what is told of a mirror, if it is still there.
func (e *Evictor) count(m Mirror, change func(*Stats)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.stats[m.Prefix]; s != nil {
		change(s)
	}
}

// Run evicts again and again, and has all that caches hold looked at soon after it
// starts, after the mirrors have changed, and once a day, until ctx ends.
func (e *Evictor) Run(ctx context.Context) {
	var look time.Time // when it is looked at next
	for ctx.Err() == nil {
		if !e.now().Before(look) {
			err := e.reg.LookCaches(ctx)
			look = e.now().Add(lookEvery)
			if err != nil && ctx.Err() == nil {
				e.log.ErrorContext(ctx, "cannot look what caches hold; will try again", "error", err)
				look = time.Time{}
			}
		}
		if err := e.Evict(ctx); err != nil && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "a cache that is full could not be made smaller; will try again", "error", err)
		}
		timer := time.NewTimer(e.interval)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-e.changed:
			look = time.Time{}
		}
		timer.Stop()
	}
}
