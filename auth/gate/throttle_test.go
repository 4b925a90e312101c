package gate

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newClock() *clock { return &clock{at: time.Unix(1_800_000_000, 0)} }

// try makes an attempt and says how long it had to wait, or -1 if it was refused.
func try(t *testing.T, th *throttle, c *clock, account, client string, how outcome) time.Duration {
	t.Helper()
	a, err := th.begin(t.Context(), account, client)
	if err != nil {
		var e *ThrottledError
		if !errors.As(err, &e) || e.After <= 0 || !errors.Is(err, ErrThrottled) {
			t.Fatalf("error is %v", err)
		}
		return -1
	}
	c.pass(a.wait)
	a.end(t.Context(), how)
	return a.wait
}

func TestThrottleGrows(t *testing.T) {
	c := newClock()
	th := newThrottle(c.now)
	var waits []time.Duration
	for range 9 {
		waits = append(waits, try(t, th, c, "alice", "192.0.2.1", wrong))
	}
	if got, want := fmt.Sprint(waits), "[0s 0s 0s 0s 0s 1s 2s -1ns -1ns]"; got != want {
		t.Errorf("waits %s, want %s", got, want)
	}
	if w := try(t, th, c, "ALICE", "192.0.2.1", wrong); w != -1 {
		t.Errorf("in capitals: %v", w)
	}
	for _, other := range [][2]string{{"alice", "192.0.2.2"}, {"bob", "192.0.2.1"}} {
		if w := try(t, th, c, other[0], other[1], right); w != 0 {
			t.Errorf("%v waits %v", other, w)
		}
	}
	c.pass(5 * time.Second)
	if w := try(t, th, c, "alice", "192.0.2.1", right); w != 0 {
		t.Errorf("later: %v", w)
	}
	for i := range 5 {
		if w := try(t, th, c, "alice", "192.0.2.1", wrong); w != 0 {
			t.Errorf("failure %d after a success waits %v", i, w)
		}
	}
	c.pass(time.Hour)
	for i := range 5 {
		if w := try(t, th, c, "alice", "192.0.2.1", wrong); w != 0 {
			t.Errorf("failure %d of the next hour waits %v", i, w)
		}
	}
}

// Over a day somebody who guesses has few guesses, and is never locked out for
// longer than a while.
func TestThrottleOverADay(t *testing.T) {
	c := newClock()
	th := newThrottle(c.now)
	end, guesses := c.now().Add(24*time.Hour), 0
	for c.now().Before(end) {
		a, err := th.begin(t.Context(), "alice", "192.0.2.1")
		if e, ok := errors.AsType[*ThrottledError](err); ok {
			if e.After > guardPair.longest {
				t.Fatalf("locked out for %v", e.After)
			}
			c.pass(e.After)
			continue
		}
		c.pass(a.wait)
		a.end(t.Context(), wrong)
		guesses++
	}
	if guesses > 1000 || guesses < 10 {
		t.Errorf("%d guesses in a day", guesses)
	}
}

// Many accounts from one address: the address is slowed down.
func TestThrottleClient(t *testing.T) {
	c := newClock()
	th := newThrottle(c.now)
	tried := 0
	for i := range 1000 {
		// Addresses of one network of IPv6 are one client.
		if try(t, th, c, fmt.Sprint("user", i), fmt.Sprintf("2001:db8:1:1::%x", i), wrong) >= 0 {
			tried++
		}
	}
	if tried > 60 {
		t.Errorf("%d accounts were tried", tried)
	}
	if w := try(t, th, c, "user1", "2001:db8:1:2::1", right); w != 0 {
		t.Errorf("another network waits %v", w)
	}
}

// Many addresses, one account: it can still be signed in to, after a moment.
func TestThrottleAccount(t *testing.T) {
	c := newClock()
	th := newThrottle(c.now)
	for i := range 5000 {
		if try(t, th, c, "alice", fmt.Sprintf("10.0.%d.%d", i/250, i%250), wrong) < 0 {
			t.Fatalf("attempt %d from an address of its own was refused", i)
		}
	}
	if w := try(t, th, c, "alice", "192.0.2.1", right); w < 0 || w > guardAccount.longest {
		t.Errorf("the owner waits %v", w)
	}
}

// Guesses that come at once are counted before the first is known to be wrong.
func TestThrottleAtOnce(t *testing.T) {
	c := newClock()
	th := newThrottle(c.now)
	var going []*attempt
	for range 100 {
		if a, err := th.begin(t.Context(), "alice", "192.0.2.1"); err == nil {
			going = append(going, a)
		}
	}
	if len(going) != 5 {
		t.Errorf("%d guesses at once", len(going))
	}
	for _, a := range going {
		a.end(t.Context(), unknown) // the source failed: nobody's fault
	}
	if w := try(t, th, c, "alice", "192.0.2.1", wrong); w != 0 {
		t.Errorf("after a failure of the source one waits %v", w)
	}
	n := 0
	for i := range 1000 {
		if _, err := th.begin(t.Context(), fmt.Sprint("user", i), "192.0.2.9"); err == nil {
			n++
		}
	}
	if n > maxAttempts {
		t.Errorf("%d attempts of one client at once", n)
	}
}

func TestRecentIsBounded(t *testing.T) {
	c := newClock()
	m := newRecent[int, int](100, time.Hour)
	for i := range 10_000 {
		m.put(i, i, c.now())
		if n := len(m.young) + len(m.old); n > 100 {
			t.Fatalf("%d entries", n)
		}
		if v, ok := m.get(0, c.now()); !ok || v != 0 {
			t.Fatalf("what is used is forgotten after %d", i)
		}
	}
	if _, ok := m.get(5000, c.now()); ok {
		t.Error("what is not used is remembered")
	}
	c.pass(2 * time.Hour)
	m.put(-1, 0, c.now())
	c.pass(2 * time.Hour)
	m.put(-2, 0, c.now())
	if _, ok := m.get(0, c.now()); ok {
		t.Error("what was not used for hours is remembered")
	}
	m.drop(-1)
	if _, ok := m.get(-1, c.now()); ok {
		t.Error("what was dropped is there")
	}
}
