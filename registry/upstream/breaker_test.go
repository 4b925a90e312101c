package upstream

import (
	"testing"
	"time"
)

// stopped is a clock that only a test moves.
type stopped struct{ t time.Time }

func (s *stopped) now() time.Time { return s.t }

func newTestBreaker() (*breaker, *stopped) {
	c := &stopped{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	return newBreaker("mirror", "hub", c.now), c
}

// through sends a request through, of which comes f.
func through(t *testing.T, b *breaker, f *fault) {
	t.Helper()
	pass, e := b.enter()
	if e != nil {
		t.Fatalf("not let through: %v", e)
	}
	b.leave(pass, f)
}

func closedNow(t *testing.T, b *breaker, want bool) {
	t.Helper()
	if got := b.state() == nil; got != want {
		t.Fatalf("lets requests through: %v, want %v", got, want)
	}
}

var (
	fails = &fault{reason: "a.example refuses connections"}
	slow  = &fault{reason: "a.example did not answer in time", slow: true}
	gone  = &fault{kind: cancelled}
)

func TestBreakerOpens(t *testing.T) {
	for name, tt := range map[string]struct {
		faults []*fault
		open   bool
	}{
		"three in a row":           {[]*fault{fails, fails, fails}, true},
		"two":                      {[]*fault{fails, fails}, false},
		"a success between":        {[]*fault{fails, fails, nil, fails, fails}, false},
		"a whole timeout":          {[]*fault{slow}, true},
		"clients that go":          {[]*fault{gone, gone, gone, gone}, false},
		"clients that go between":  {[]*fault{fails, gone, fails, gone, fails}, true},
		"denied":                   {[]*fault{{kind: denied}, {kind: refused}, {kind: barred}, {kind: denied}}, false},
		"denied, so it is there":   {[]*fault{fails, fails, {kind: denied}, fails}, false},
		"limited":                  {[]*fault{{kind: limited}}, true},
		"paused":                   {[]*fault{{kind: paused, after: time.Second}}, true},
		"limited, time in seconds": {[]*fault{{kind: limited, after: time.Second}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newTestBreaker()
			for _, f := range tt.faults {
				through(t, b, f)
			}
			closedNow(t, b, !tt.open)
		})
	}
}

func TestBreakerProbes(t *testing.T) {
	b, c := newTestBreaker()
	through(t, b, slow)
	last := time.Duration(0)
	for range 12 {
		e := b.state()
		wait := e.Until.Sub(c.t)
		if wait < last/2 || wait < minBackoff/2 || wait > maxBackoff {
			t.Fatalf("waits %v after %v", wait, last)
		}
		last = wait
		c.t = e.Until.Add(-time.Nanosecond)
		closedNow(t, b, false)
		c.t = e.Until
		closedNow(t, b, true)
		probe, e := b.enter()
		if e != nil || !probe.probe {
			t.Fatalf("no probe was let through: %v", e)
		}
		if _, second := b.enter(); second == nil || second.Until.Before(c.t) {
			t.Fatalf("a second probe: %v", second)
		}
		b.leave(probe, fails)
		closedNow(t, b, false)
	}
	if last < maxBackoff/2 {
		t.Errorf("waits %v in the end, want about %v", last, maxBackoff)
	}
	c.t = c.t.Add(maxBackoff)
	probe, _ := b.enter()
	b.leave(probe, gone) // says nothing, and lets the next one try
	through(t, b, nil)
	closedNow(t, b, true)
	through(t, b, fails)
	through(t, b, fails)
	closedNow(t, b, true)
	through(t, b, fails)
	if wait := b.state().Until.Sub(c.t); wait > minBackoff {
		t.Errorf("after a success it waits %v, want as the first time", wait)
	}
}

// What began before it opened says nothing about the state after it.
func TestBreakerStragglers(t *testing.T) {
	b, c := newTestBreaker()
	var early []ticket
	for range 10 {
		pass, _ := b.enter()
		early = append(early, pass)
	}
	for _, pass := range early[:8] {
		b.leave(pass, fails)
	}
	until := b.state().Until
	if until.Sub(c.t) > minBackoff {
		t.Errorf("many that failed at once: waits %v", until.Sub(c.t))
	}
	b.leave(early[8], nil)
	if e := b.state(); e == nil || !e.Until.Equal(until) {
		t.Errorf("an early success: %v", e)
	}
	c.t = until
	probe, _ := b.enter()
	b.leave(early[9], nil)
	if _, e := b.enter(); e == nil {
		t.Error("an early success let a second probe through")
	}
	b.leave(probe, nil)
	closedNow(t, b, true)
}

func TestBreakerIsTold(t *testing.T) {
	b, c := newTestBreaker()
	first, _ := b.enter()
	second, _ := b.enter()
	third, _ := b.enter()
	b.leave(first, &fault{kind: limited, reason: "too many", after: time.Minute})
	b.leave(second, &fault{kind: limited, after: 10 * time.Second})
	b.leave(third, &fault{kind: limited})
	e := b.state()
	if got := e.Until.Sub(c.t); got != time.Minute || !e.Limited || e.Reason != "too many" || e.Header().Get("Retry-After") != "60" {
		t.Errorf("waits %v: %+v", got, e)
	}
	c.t = c.t.Add(59500 * time.Millisecond)
	if e := b.state(); e.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q half a second before, want 1", e.Header().Get("Retry-After"))
	}
	c.t = c.t.Add(time.Second)
	through(t, b, &fault{kind: paused, after: 48 * time.Hour})
	if e := b.state(); e.Until.Sub(c.t) != maxTold || e.Limited {
		t.Errorf("two days: %+v", e)
	}
}
