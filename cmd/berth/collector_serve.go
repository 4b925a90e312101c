package main

import (
	"context"
	"math"
	"time"

	"github.com/berth-registry/berth/gc"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
)

// keeping is what the configuration says is kept.
func keeping(c config.GC) registry.Keeping {
	return registry.Keeping{Grace: c.Grace, Lease: c.Lease, Untagged: !c.Untagged, History: c.History, Moves: c.Moves}
}

// collectorGauges tells what a worker has done.
func collectorGauges(m *telemetry.Metrics, w *gc.Worker, local *registry.Local) {
	gauge := func(name, help string, of func(gc.Stats) float64) {
		m.Gauge(name, help, func(context.Context) float64 { return of(w.Stats()) })
	}
	gauge("berth_gc_last_success_timestamp_seconds", "When garbage was looked for last without a failure; 0 for not since the start.", func(s gc.Stats) float64 {
		if s.Last.IsZero() {
			return 0
		}
		return float64(s.Last.UnixMilli()) / 1000
	})
	gauge("berth_gc_removed", "Manifests, blobs of repositories and stored blobs removed as garbage since the start.", func(s gc.Stats) float64 { return float64(s.Removed) })
	gauge("berth_gc_freed_bytes", "Bytes of stored blobs removed as garbage since the start.", func(s gc.Stats) float64 { return float64(s.Bytes) })
	gauge("berth_gc_failures", "Collections that failed, and blobs that could not be deleted, since the start.", func(s gc.Stats) float64 { return float64(s.Failures) })
	queued := func(name, help string, of func(registry.Queue) float64) {
		m.Gauge(name, help, func(ctx context.Context) float64 {
			q, err := local.Queue(ctx, maxQueueCounted)
			if err != nil {
				return math.NaN()
			}
			return of(q)
		})
	}
	queued("berth_gc_queued", "What is to be looked at whether it is garbage, now or later; counted up to 10000.", func(q registry.Queue) float64 { return float64(q.Reviews) })
	queued("berth_gc_lag_seconds", "How long what is to be looked at first has been due; 0 if it is not due yet.", func(q registry.Queue) float64 {
		if q.Next.IsZero() {
			return 0
		}
		return max(0, time.Since(q.Next).Seconds())
	})
}

// maxQueueCounted is how far the queue is counted each time that metrics are read.
const maxQueueCounted = 10_000
