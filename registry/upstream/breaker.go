package upstream

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	failuresToOpen = 3 // in a row
	minBackoff     = time.Second
	maxBackoff     = time.Minute
	maxTold        = time.Hour // of what an upstream may ask for with Retry-After
)

// breaker keeps requests from an upstream that does not answer them. It is
// closed, and lets all through; open until a time; and from then on half open:
// one request at a time is let through, and what comes of it closes or opens it.
type breaker struct {
	kind, name string // for errors
	now        func() time.Time

	mu       sync.Mutex
	failures int // in a row, while closed
	level    int // how often it was opened without having been closed
	// turn counts the changes of state: what began before one says nothing about
	// the state after it.
	turn    int
	until   time.Time // zero while closed
	probing bool
	reason  string
	limited bool
}

func newBreaker(kind, name string, now func() time.Time) *breaker {
	return &breaker{kind: kind, name: name, now: now}
}

// ticket is a request that was let through.
type ticket struct {
	turn  int
	probe bool
}

// enter lets a request through, which leaves later, or says why not.
func (b *breaker) enter() (ticket, *Unavailable) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.closedTo(); e != nil {
		return ticket{}, e
	}
	t := ticket{turn: b.turn, probe: !b.until.IsZero()}
	b.probing = t.probe
	return t, nil
}

// state is why a request would not be let through, or nil.
func (b *breaker) state() *Unavailable {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closedTo()
}

func (b *breaker) closedTo() *Unavailable {
	now := b.now()
	switch {
	case b.until.IsZero():
		return nil
	case now.Before(b.until):
		return b.unavailable(b.until, now)
	case b.probing:
		return b.unavailable(now.Add(minBackoff), now)
	default:
		return nil
	}
}

func (b *breaker) unavailable(until, now time.Time) *Unavailable {
	return &Unavailable{Name: b.name, Kind: b.kind, Reason: b.reason, Until: until, Limited: b.limited, wait: until.Sub(now)}
}

// leave takes note of what came of a request: an answer if f is nil. It returns
// until when it is open, and whether that, or its end, is news.
func (b *breaker) leave(t ticket, f *fault) (until time.Time, news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.probe && t.turn == b.turn {
		b.probing = false
	}
	switch {
	case f != nil && (f.kind == limited || f.kind == paused):
		return b.told(t, f)
	case t.turn != b.turn:
		return b.until, false
	case f == nil || f.alive():
		news = !b.until.IsZero()
		if news {
			b.turn++
		}
		b.failures, b.level, b.until, b.reason, b.limited = 0, 0, time.Time{}, "", false
		return b.until, news
	case f.kind == failed:
		b.failures++
		if t.probe || f.slow || b.failures >= failuresToOpen {
			b.open(b.backoff(), f)
			return b.until, true
		}
	}
	return b.until, false
}

// told opens b for as long as the upstream asked for.
func (b *breaker) told(t ticket, f *fault) (time.Time, bool) {
	wait := min(f.after, maxTold)
	if wait <= 0 {
		if t.turn != b.turn {
			return b.until, false
		}
		wait = b.backoff()
	}
	if !b.now().Add(wait).After(b.until) {
		return b.until, false
	}
	b.open(wait, f)
	return b.until, true
}

func (b *breaker) open(wait time.Duration, f *fault) {
	b.turn++
	b.level++
	b.failures, b.probing = 0, false
	b.until, b.reason, b.limited = b.now().Add(wait), f.reason, f.kind == limited
}

// backoff doubles with every time that b was opened again. It is drawn from the
// upper half, so that replicas do not ask all at once.
func (b *breaker) backoff() time.Duration {
	d := min(minBackoff<<min(b.level, 10), maxBackoff)
	return d/2 + rand.N(d/2) //nolint:gosec // no secret
}
