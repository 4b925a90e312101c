package main

import (
	"context"
	"math"

	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/upstream"
)

// measure adds gauges, where there is something to measure.
func (o *others) measure(m *telemetry.Metrics) {
	if len(o.mirrors) > 0 {
		o.measureUpstreams(m)
		o.measureMirrors(m)
	}
	if len(o.targets) > 0 {
		m.Gauge("berth_replication_pending", "Tags and manifests that wait to be replicated.", func(ctx context.Context) float64 {
			n, err := o.replicator.Pending(ctx)
			if err != nil {
				return math.NaN()
			}
			return float64(n)
		})
		m.Gauge("berth_replication_failures", "Tries to replicate something that failed.", func(context.Context) float64 { return float64(o.replicator.Failures()) })
	}
}

// measureUpstreams tells how upstreams answer. A limit that nothing is known of is not
// told.
func (o *others) measureUpstreams(m *telemetry.Metrics) {
	each := func(name, help string, value func(upstream.Stats) (float64, bool)) {
		m.Gauges(name, help, "mirror", func(context.Context) (map[string]float64, error) {
			all := map[string]float64{}
			for name, u := range o.upstreams {
				if v, ok := value(u.Stats()); ok {
					all[name] = v
				}
			}
			return all, nil
		})
	}
	each("berth_mirror_ratelimit_remaining", "Pulls that the upstream said are left in its window.", func(s upstream.Stats) (float64, bool) {
		return float64(s.RateLimit.Remaining), s.RateLimit.Known
	})
	each("berth_mirror_ratelimit_limit", "Pulls that the upstream allows in its window.", func(s upstream.Stats) (float64, bool) {
		return float64(s.RateLimit.Limit), s.RateLimit.Known
	})
	each("berth_mirror_upstream_available", "1 if the upstream may be asked, 0 while it is left alone.", func(s upstream.Stats) (float64, bool) {
		if s.Until.IsZero() {
			return 1, true
		}
		return 0, true
	})
	each("berth_mirror_upstream_bytes", "Bytes of bodies that came from the upstream.", func(s upstream.Stats) (float64, bool) { return float64(s.BytesIn), true })
	for _, outcome := range []upstream.Outcome{upstream.OK, upstream.NotFound, upstream.Refused, upstream.Limited, upstream.Failed, upstream.Rejected, upstream.Cancelled} {
		each("berth_mirror_upstream_requests_"+string(outcome), "Requests to the upstream with the outcome "+string(outcome)+".", func(s upstream.Stats) (float64, bool) {
			return float64(s.Requests[outcome]), true
		})
	}
}

// measureMirrors tells what became of clients' requests.
func (o *others) measureMirrors(m *telemetry.Metrics) {
	each := func(name, help string, value func(mirror.Stats) int64) {
		m.Gauges(name, help, "mirror", func(context.Context) (map[string]float64, error) {
			all := map[string]float64{}
			for _, s := range o.mirror.Stats() {
				all[s.Name] = float64(value(s))
			}
			return all, nil
		})
	}
	each("berth_mirror_hits", "Requests that were answered from the cache.", func(s mirror.Stats) int64 { return s.Hits })
	each("berth_mirror_misses", "Requests for which the upstream was asked.", func(s mirror.Stats) int64 { return s.Misses })
	each("berth_mirror_stale", "Requests that were answered from the cache as the upstream could not be asked.", func(s mirror.Stats) int64 { return s.Stale })
	each("berth_mirror_failures", "Times that the upstream could not be asked, or gave something wrong.", func(s mirror.Stats) int64 { return s.Failures })
}
