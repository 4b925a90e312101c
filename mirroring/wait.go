package mirroring

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/berth-registry/berth/registry/copying"
)

const (
	// maxWait is how long a run waits for an upstream that is not to be asked; for a
	// longer time it ends, to go on later.
	maxWait = 5 * time.Minute
	// maxWaits is how often it does before something comes of it.
	maxWaits = 5
	// leastWait keeps a time that is wrong from being no time.
	leastWait = time.Second
	// mostWait is how long an upstream can have a job rest.
	mostWait = 24 * time.Hour
)

// postponed ends a run whose upstream is not to be asked for long.
type postponed struct {
	until time.Time
	err   error
}

func (p *postponed) Error() string { return p.err.Error() }
func (p *postponed) Unwrap() error { return p.err }

// waitOf says when an upstream may be asked again that has failed with err; zero if
// it does not say.
func waitOf(err error, now time.Time) time.Time {
	var told interface {
		error
		Header() http.Header
	}
	if !errors.As(err, &told) {
		return time.Time{}
	}
	text := told.Header().Get("Retry-After") // RFC 9110, section 10.2.3
	if text == "" {
		return time.Time{}
	}
	wait := leastWait
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		wait = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return now.Add(min(max(wait, leastWait), mostWait))
}

// ask does something that asks the upstream, when it may be asked; again if it says
// that it was too early. Requests that run at the same time wait together.
func (r *run) ask(ctx context.Context, do func(context.Context) error) error {
	for {
		if err := r.pause(ctx); err != nil {
			return err
		}
		var err error
		if r.up.Unavailable != nil {
			if err = r.up.Unavailable(); err != nil {
				err = &copying.SourceError{Err: err}
			}
		}
		asked := err == nil
		if asked {
			err = do(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		until := waitOf(err, r.w.now())
		if until.IsZero() {
			if asked && err == nil {
				r.answered()
			}
			return err
		}
		r.wait(until, err)
	}
}

// wait has all requests wait, or ends the run.
func (r *run) wait(until time.Time, err error) {
	r.mu.Lock()
	now := r.w.now()
	if r.waits.After(now) && !until.After(r.waits) { // as all wait already
		r.mu.Unlock()
		return
	}
	if !r.waits.After(now) {
		r.paused++
	}
	r.waits = until
	long := until.Sub(now) > maxWait || r.paused > maxWaits
	r.mu.Unlock()
	if long {
		r.stop(&postponed{until, err})
		return
	}
	r.tell(Event{Waits: until})
}

// pause waits until the upstream may be asked.
func (r *run) pause(ctx context.Context) error {
	for {
		r.mu.Lock()
		left := r.waits.Sub(r.w.now())
		if r.waits.IsZero() || left <= 0 {
			r.waits = time.Time{}
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// answered says that the upstream has answered.
func (r *run) answered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = 0
}
