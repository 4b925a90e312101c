package fleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/berth-registry/berth/runner"
)

const (
	// watchTime is how long a registry is asked to hold a watch: less than what lies
	// between lets a connection be silent.
	watchTime = 50 * time.Second
	// watchPace is how often a watch that tells of nothing is taken up again at most.
	watchPace = time.Second
)

// watching waits for another version than the one of the last answer.
type watching struct {
	version string
	news    chan error // nil: there is one
}

// watch begins to watch, if that is not going on.
func (l *loop) watch(ctx context.Context) {
	if l.polling || l.answer.Version == "" || l.watching != nil {
		return
	}
	w := &watching{version: l.answer.Version, news: make(chan error, 1)}
	l.watching = w
	l.running.Go(func() {
		if err := w.run(ctx, l.source); ctx.Err() == nil {
			w.news <- err
		}
	})
}

// run returns nil when there is another version, and runner.ErrNotFound if the registry
// cannot be watched. It gets over everything else.
func (w *watching) run(ctx context.Context, s Source) error {
	for failures := 0; ; {
		began := time.Now()
		version, err := s.Watch(ctx, w.version, watchTime)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, runner.ErrNotFound):
			return err
		case err != nil:
			pause(ctx, backoff(failures, maxPause))
			failures++
		case version != w.version:
			return nil
		default:
			failures = 0
			pause(ctx, watchPace-time.Since(began))
		}
	}
}

// heard makes ready to ask the registry what has changed.
func (l *loop) heard(ctx context.Context, err error) {
	l.watching = nil
	if err != nil {
		// Who takes reports and cannot be watched is asked as often as one who does
		// neither.
		pause(ctx, l.o.Poll)
		return
	}
	pause(ctx, max(rand.N(spread), spread-time.Since(l.asked))) //nolint:gosec // spreads nodes over time
}
