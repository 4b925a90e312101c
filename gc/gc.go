// Package gc decides when a registry collects its garbage: a Worker looks at the
// queue of reviews again and again, and at once when somebody asks.
//
// It promises that one process runs one collection at a time, that a failure is
// only a delay, and that stopping it loses nothing: what a collection has not done
// stays queued. Workers of several processes over one store share the work.
//
// What is garbage it does not know: that is for package registry (registry.Local's
// Collect), whose transactions no push or pull waits for.
package gc

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/berth-registry/berth/registry"
)

// Collector removes garbage; a registry.Local is one.
type Collector interface {
	// Collect does the reviews that are due, with all set those too that are not
	// due yet. It tells progress what it has done since it told it last.
	Collect(ctx context.Context, all bool, progress func(registry.Collected)) error
	// Plan says what Collect would remove, and changes nothing.
	Plan(ctx context.Context, all bool) ([]registry.Garbage, error)
}

const (
	// defaultInterval is that between two looks unless Options say another.
	defaultInterval = time.Minute
	// maxBackoff is how long a collection that fails is put off at most, unless
	// the interval is longer.
	maxBackoff = time.Hour
)

// Options are what a Worker can be told.
type Options struct {
	// Interval is the time between two looks at the queue; 0 for a minute. A tenth
	// of it is left to chance.
	Interval time.Duration
	// Log receives what was removed, and failures; nil is none.
	Log *slog.Logger
	// Now is the clock that Stats tell by; nil for time.Now.
	Now func() time.Time
}

// Stats are what a Worker has done since it was made.
type Stats struct {
	Last     time.Time // when a collection ended well; zero for never
	Removed  int64     // manifests, links and blobs
	Bytes    int64     // that are free now
	Failures int64     // collections that failed, and blobs that could not be deleted
	Running  bool      // whether one runs now
}

// Worker collects. Its methods may be called concurrently.
type Worker struct {
	collector Collector
	log       *slog.Logger
	now       func() time.Time
	turn      chan struct{} // holds a token of who collects
	changed   chan struct{} // tells Run of another interval

	mu       sync.Mutex
	interval time.Duration
	stats    Stats
}

// New makes a worker, which does nothing before Run or Now.
func New(c Collector, o Options) *Worker {
	w := &Worker{collector: c, log: o.Log, now: o.Now, turn: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.now == nil {
		w.now = time.Now
	}
	if w.interval = o.Interval; w.interval <= 0 {
		w.interval = defaultInterval
	}
	return w
}

// SetInterval changes Options.Interval, and has Run begin to wait anew.
func (w *Worker) SetInterval(d time.Duration) {
	if d <= 0 {
		d = defaultInterval
	}
	w.mu.Lock()
	changed := w.interval != d
	w.interval = d
	w.mu.Unlock()
	if changed {
		select {
		case w.changed <- struct{}{}:
		default: // it is about to look at it anyway
		}
	}
}

// Stats tells what was done so far.
func (w *Worker) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Plan says what Now would remove, or with all not set what the next look would,
// and changes nothing.
func (w *Worker) Plan(ctx context.Context, all bool) ([]registry.Garbage, error) {
	return w.collector.Plan(ctx, all)
}

// Now collects at once all that nothing needs, due or not, but for what has a
// lease. It waits for a collection that runs; ctx ends that, and the collection
// itself between two of its transactions. progress, if not nil, is told of it as by
// Collector.Collect; while progress is busy, nothing is collected.
func (w *Worker) Now(ctx context.Context, progress func(registry.Collected)) error {
	return w.collect(ctx, true, progress)
}

// Run collects what is due until ctx ends.
func (w *Worker) Run(ctx context.Context) {
	failures := 0
	timer := time.NewTimer(w.jitter()) // soon, even if the process never lives for long
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
			timer.Reset(w.pause(failures))
			continue
		case <-timer.C:
		}
		err := w.collect(ctx, false, nil)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			w.log.WarnContext(ctx, "cannot collect garbage; will try again", "failures", failures, "error", err)
		default:
			failures = 0
		}
		timer.Reset(w.pause(failures))
	}
}

// pause is how long to wait after so many failures in a row.
func (w *Worker) pause(failures int) time.Duration {
	w.mu.Lock()
	interval := w.interval
	w.mu.Unlock()
	wait := min(interval<<min(failures, 10), max(interval, maxBackoff))
	return max(wait, interval) + w.jitter() // wait is too large for its type if it is less
}

// jitter is up to a tenth of the interval, so that replicas do not go in step.
func (w *Worker) jitter() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return rand.N(w.interval/10 + 1) //nolint:gosec // it keeps no secret
}

// collect collects when it is its turn, and counts.
func (w *Worker) collect(ctx context.Context, all bool, progress func(registry.Collected)) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case w.turn <- struct{}{}:
	}
	defer func() { <-w.turn }()
	w.count(func(s *Stats) { s.Running = true })
	var sum Stats
	begin := w.now()
	err := w.collector.Collect(ctx, all, func(c registry.Collected) {
		n := counted(c)
		sum.Removed, sum.Bytes = sum.Removed+n.Removed, sum.Bytes+n.Bytes
		w.count(func(s *Stats) {
			s.Removed, s.Bytes, s.Failures = s.Removed+n.Removed, s.Bytes+n.Bytes, s.Failures+n.Failures
		})
		if progress != nil {
			progress(c)
		}
	})
	w.count(func(s *Stats) {
		s.Running = false
		switch {
		case err == nil:
			s.Last = w.now()
		case ctx.Err() == nil:
			s.Failures++
		}
	})
	if sum.Removed > 0 {
		w.log.InfoContext(ctx, "garbage collected", "removed", sum.Removed, "bytes", sum.Bytes, "duration", w.now().Sub(begin))
	}
	return err
}

func (w *Worker) count(add func(*Stats)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	add(&w.stats)
}

// counted sums up one step of a collection.
func counted(c registry.Collected) Stats {
	s := Stats{Removed: int64(len(c.Removed)), Failures: int64(c.Failed)}
	for _, g := range c.Removed {
		s.Bytes += g.Size
	}
	return s
}
