package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
)

// recountPause is how long it is before what failed to be counted is tried again, or
// what others may have changed is looked at.
const recountPause = time.Minute

// usageCounter sets the quotas of a registry, and has counted in the background what
// is not counted yet.
type usageCounter struct {
	local   *registry.Local
	log     *slog.Logger
	changed chan struct{} // has one when the quotas have changed
	shared  bool          // others may have them counted anew
}

func newUsageCounter(o healthOptions) *usageCounter {
	u := &usageCounter{o.local, o.log, make(chan struct{}, 1), o.shared()}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	return u
}

// set makes the quotas of a configuration hold.
func (u *usageCounter) set(quotas []config.Quota) {
	u.local.SetQuotas(quotasOf(quotas))
	select {
	case u.changed <- struct{}{}:
	default: // it will see these ones
	}
}

// quotasOf makes quotas of a configuration's. Each is called after its patterns.
func quotasOf(quotas []config.Quota) []registry.Quota {
	list := make([]registry.Quota, 0, len(quotas))
	for _, q := range quotas {
		list = append(list, registry.Quota{
			Name: strings.Join(q.Repos, " "), Bytes: q.Bytes, Tags: q.Tags,
			Match: func(repo string) bool {
				return slices.ContainsFunc(q.Repos, func(pattern string) bool { return auth.Match(pattern, repo) })
			},
		})
	}
	return list
}

// Run counts what is not counted yet, at the start and when the quotas have changed,
// until ctx ends. Where other servers share the metadata it looks again and again: one
// that is started with other quotas has them counted anew.
func (u *usageCounter) Run(ctx context.Context) {
	for {
		err := u.recount(ctx)
		var again <-chan time.Time
		if u.shared {
			again = time.After(recountPause)
		}
		if err != nil && ctx.Err() == nil {
			u.log.ErrorContext(ctx, "cannot count what repositories use; will try again", "error", err)
			again = time.After(recountPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-u.changed:
		}
	}
}

func (u *usageCounter) recount(ctx context.Context) error {
	waiting, err := u.uncounted(ctx)
	if err != nil {
		return err
	}
	if len(waiting) > 0 {
		u.log.InfoContext(ctx, "counting what repositories use; until that is done these limit nothing", "quotas", waiting)
	}
	start := time.Now()
	if err := u.local.Recount(ctx); err != nil {
		return err
	}
	if len(waiting) > 0 {
		u.log.InfoContext(ctx, "counted what repositories use: all quotas hold", "duration", time.Since(start).String())
	}
	return nil
}

// uncounted lists the quotas that are still to be counted.
func (u *usageCounter) uncounted(ctx context.Context) (names []string, err error) {
	quotas, err := u.local.QuotaUsage(ctx)
	for _, q := range quotas {
		if !q.Counted {
			names = append(names, q.Name)
		}
	}
	return names, err
}

// usageGauges tells how much of each quota is used.
func usageGauges(m *telemetry.Metrics, local *registry.Local) {
	gauge := func(name, help string, of func(registry.QuotaUsage) float64) {
		m.Gauges(name, help, "quota", func(ctx context.Context) (map[string]float64, error) {
			values := map[string]float64{}
			quotas, err := local.QuotaUsage(ctx)
			for _, q := range quotas {
				values[q.Name] = of(q)
			}
			return values, err
		})
	}
	gauge("berth_quota_bytes", "Bytes that the repositories of a quota hold, each digest once.", func(q registry.QuotaUsage) float64 { return float64(q.Bytes) })
	gauge("berth_quota_limit_bytes", "Bytes that they may hold; 0 for any number.", func(q registry.QuotaUsage) float64 { return float64(q.MaxBytes) })
	gauge("berth_quota_tags", "Tags of the repositories of a quota.", func(q registry.QuotaUsage) float64 { return float64(q.Tags) })
	gauge("berth_quota_limit_tags", "Tags that they may have; 0 for any number.", func(q registry.QuotaUsage) float64 { return float64(q.MaxTags) })
	gauge("berth_quota_counted", "1 if a quota is counted, and holds; 0 while it is being counted.", func(q registry.QuotaUsage) float64 {
		if q.Counted {
			return 1
		}
		return 0
	})
}
