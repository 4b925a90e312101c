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
	stop    func()
}

// watch begins to watch, if that is not going on: what is watched with an older answer
// may have less to hear of.
func (l *loop) watch(ctx context.Context) {
	if l.polling || l.answer.Version == "" || l.watching != nil && l.watching.version == l.answer.Version {
		return
	}
	l.unwatch()
	ctx, stop := context.WithCancel(ctx)
	w := &watching{version: l.answer.Version, news: make(chan error, 1), stop: stop}
	l.watching = w
	l.running.Go(func() {
		if err := w.run(ctx, l.source); ctx.Err() == nil {
			w.news <- err
		}
	})
}

func (l *loop) unwatch() {
	if l.watching != nil {
		l.watching.stop()
		l.watching = nil
	}
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
	l.unwatch()
	if err != nil {
		// Who takes reports and cannot be watched is asked as often as one who does
		// neither.
		pause(ctx, l.o.Poll)
		return
	}
	pause(ctx, max(rand.N(spread), spread-time.Since(l.asked))) //nolint:gosec // spreads nodes over time
}
