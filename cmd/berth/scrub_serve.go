package main

import (
	"context"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/gc/scrub"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
)

// scrubber checks what is stored, and looks once at what was stored before there was
// collection.
type scrubber struct {
	*scrub.Scrub
	local   *registry.Local
	log     *slog.Logger
	runs    atomic.Bool
	changed chan struct{} // has one when what is kept has changed
}

func newScrubber(c config.Config, o healthOptions) *scrubber {
	options := scrub.Options{Interval: c.Scrub.Interval, Rate: c.Scrub.Rate, Heal: o.heal, Log: o.log}
	if o.shared() {
		options.Lead = func(ctx context.Context, fn func(context.Context)) { o.alone("scrub", fn)(ctx) }
	}
	s := &scrubber{
		Scrub: scrub.New(o.blobs, o.meta, o.local, options),
		local: o.local, log: o.log, changed: make(chan struct{}, 1),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	o.local.SetDoubt(s.Doubt)
	return s
}

// set makes a configuration hold.
func (s *scrubber) set(c config.Scrub) {
	s.Set(c.Interval, c.Rate)
	select {
	case s.changed <- struct{}{}:
	default: // it will see this one
	}
}

// Run checks until ctx ends.
func (s *scrubber) Run(ctx context.Context) {
	s.runs.Store(true)
	defer s.runs.Store(false)
	s.Scrub.Run(ctx)
}

// firstLookPause is how long it is before a first look that failed goes on.
const firstLookPause = time.Minute

// firstLook finds what became garbage before there was collection, or while it was
// kept, at the start and when the configuration has changed, until ctx ends.
func (s *scrubber) firstLook(ctx context.Context) {
	for {
		err := s.local.FirstLook(ctx)
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot look for what became garbage before it was kept account of; will try again", "error", err)
			again = time.After(firstLookPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-s.changed:
		}
	}
}

// StartScrub implements admin.Scrubber.
func (s *scrubber) StartScrub(ctx context.Context) (admin.ScrubStarted, error) {
	started, err := s.Start(ctx)
	return admin.ScrubStarted{Started: started, Waits: !s.runs.Load()}, err
}

// ScrubStatus implements admin.Scrubber.
func (s *scrubber) ScrubStatus(ctx context.Context, most int) (admin.ScrubStatus, error) {
	st, err := s.Status(ctx, most)
	if err != nil {
		return admin.ScrubStatus{}, err
	}
	status := admin.ScrubStatus{
		Running: st.Running, Wanted: !st.Round.Wanted.IsZero(), Blobs: st.Blobs, Bytes: st.Bytes, Count: st.Count,
	}
	if st.Problem != nil {
		status.Problem = st.Problem.Error()
	}
	if r := st.Round; !r.Began.IsZero() {
		status.Round = &admin.ScrubRound{Began: r.Began.UTC(), Blobs: r.Blobs, Bytes: r.Bytes, Damaged: r.Damaged, Leaked: r.Leaked}
	}
	if r := st.Round.Last; !r.Finished.IsZero() {
		finished := r.Finished.UTC()
		status.Last = &admin.ScrubRound{Began: r.Began.UTC(), Finished: &finished, Blobs: r.Blobs, Bytes: r.Bytes, Damaged: r.Damaged, Leaked: r.Leaked}
	}
	if !st.Next.IsZero() {
		next := st.Next.UTC()
		status.Next = &next
	}
	for _, d := range st.Damaged {
		status.Damaged = append(status.Damaged, admin.DamagedBytes{
			Digest: string(d.Digest), Damage: d.Kind.String(), Size: d.Size, Since: d.Since.UTC(), Quarantined: d.Kept,
			Repos: d.Repos[:min(len(d.Repos), most)],
		})
	}
	return status, nil
}

// scrubGauges tells how the scrub is.
func scrubGauges(m *telemetry.Metrics, s *scrubber) {
	m.Gauge("berth_scrub_damaged", "Stored blobs that are damaged, and unknown until somebody pushes them again.", func(ctx context.Context) float64 {
		damaged, _, err := s.Counts(ctx)
		if err != nil {
			return math.NaN()
		}
		return float64(damaged)
	})
	m.Gauge("berth_scrub_bytes_total", "Stored bytes that were read again since the start, to see whether they are what they should be.", func(context.Context) float64 { return float64(s.Read()) })
	m.Gauge("berth_scrub_last_finished_timestamp_seconds", "When all that is stored had been checked last; 0 for never.", func(ctx context.Context) float64 {
		_, finished, err := s.Counts(ctx)
		switch {
		case err != nil:
			return math.NaN()
		case finished.IsZero():
			return 0
		}
		return float64(finished.UnixMilli()) / 1000
	})
}
