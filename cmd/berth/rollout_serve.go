package main

import (
	"context"
	"log/slog"
	"math"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/rollout"
	"github.com/berth-registry/berth/rollout/hub"
	"github.com/berth-registry/berth/storage"
)

// fleets are the nodes that follow tags: what they are to run, and those that wait for
// something new.
type fleets struct {
	store *rollout.Store
	hub   *hub.Hub
}

// rolloutName acts when a rollout moves a tag back by itself. No account can have a name
// with a space.
const rolloutName = "berth rollout"

func newFleets(meta storage.Meta, local *registry.Local, log *slog.Logger) *fleets {
	store := rollout.NewStore(meta, local, rollout.Options{
		As: func(ctx context.Context) context.Context {
			return audit.NewContext(ctx, &audit.Actor{Account: rolloutName})
		},
		Log: log,
	})
	return &fleets{store, hub.New(store, hub.Options{Meta: meta, Log: log})}
}

// runs are what goes on until the registry ends.
func (f *fleets) runs() []func(context.Context) {
	return []func(context.Context){as(rolloutName, f.store.Run), as(rolloutName, f.hub.Run)}
}

// administer adds to the administration's options what fleets have.
func (f *fleets) administer(o *admin.Options, local *registry.Local) {
	o.Rollouts, o.Watches, o.Cached = f.store, f.hub, local.Cached
}

// measure adds gauges.
func (f *fleets) measure(m *telemetry.Metrics) {
	m.Gauge("berth_watches", "Clients that wait for something new about a tag.", func(context.Context) float64 { return float64(f.hub.Waiting()) })
	m.Gauges("berth_rollouts", "Tags that nodes follow, by the state of their rollout.", "state", func(ctx context.Context) (map[string]float64, error) {
		counts, err := f.store.Counts(ctx)
		values := map[string]float64{}
		for state, n := range counts.Rollouts {
			values[state] = float64(n)
		}
		return values, err
	})
	nodes := func(of func(rollout.Counts) int) func(context.Context) float64 {
		return func(ctx context.Context) float64 {
			counts, err := f.store.Counts(ctx)
			if err != nil {
				return math.NaN()
			}
			return float64(of(counts))
		}
	}
	m.Gauge("berth_followers", "Nodes that follow a tag, each once for each tag.", nodes(func(c rollout.Counts) int { return c.Nodes }))
	m.Gauge("berth_followers_silent", "Nodes that follow a tag, and were not heard of for three of their intervals.", nodes(func(c rollout.Counts) int { return c.Silent }))
}
