package main

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/telemetry"
)

// newEvictor has what is cached of other registries kept as the configuration says,
// and by nothing else: no rule of retention is about it.
func newEvictor(c config.Config, o healthOptions, r *retainer) *caching.Evictor {
	r.pulls.SetCached(o.local.Cached)
	r.keeper.SetCached(o.local.Cached)
	return caching.New(o.local, caching.Options{Mirrors: caches(c), Pulls: r.pulls, Log: o.log})
}

// refetch stores damaged content anew that a mirror has the upstream of.
func (o *others) refetch(ctx context.Context, d digest.Digest, repos []string) error {
	isMirrored := func(repo string) bool { _, ok := o.mirrored(repo); return ok }
	if o.mirror == nil || !slices.ContainsFunc(repos, isMirrored) {
		return errors.ErrUnsupported
	}
	return o.mirror.Refetch(ctx, d, slices.Values(repos))
}

// cacheGauges tells how full caches are.
func cacheGauges(m *telemetry.Metrics, e *caching.Evictor) {
	if len(e.Stats()) == 0 {
		return
	}
	each := func(name, help string, of func(context.Context, caching.Stats) (float64, error)) {
		m.Gauges(name, help, "mirror", func(ctx context.Context) (map[string]float64, error) {
			values := map[string]float64{}
			for _, s := range e.Stats() {
				v, err := of(ctx, s)
				if err != nil {
					return nil, err
				}
				values[s.Name] = v
			}
			return values, nil
		})
	}
	stats := func(name, help string, of func(caching.Stats) float64) {
		each(name, help, func(_ context.Context, s caching.Stats) (float64, error) { return of(s), nil })
	}
	each("berth_mirror_cached_bytes", "Bytes that the cache of a mirror holds, each digest once.", func(ctx context.Context, s caching.Stats) (float64, error) {
		bytes, _, err := e.Usage(ctx, s.Prefix)
		return float64(bytes), err
	})
	stats("berth_mirror_quota_bytes", "Bytes that it may hold; 0 for any number.", func(s caching.Stats) float64 { return float64(s.Quota) })
	stats("berth_mirror_evicted", "Manifests, and blobs without one, that were removed since the start as the cache was full.", func(s caching.Stats) float64 { return float64(s.Evicted) })
	stats("berth_mirror_evicted_bytes", "Bytes that the cache held less by that.", func(s caching.Stats) float64 { return float64(s.Bytes) })
	stats("berth_mirror_stuck", "1 if the cache is over its quota and all that it holds is in use.", func(s caching.Stats) float64 {
		if s.Stuck {
			return 1
		}
		return 0
	})
}
