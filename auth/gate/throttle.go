package gate

import (
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"time"
)

// guard is how failed logins of one kind of key are counted: the count goes down
// by itself, so that now and then a failure does no harm for ever.
type guard struct {
	free    float64       // failures that cost nothing
	forget  time.Duration // after which one failure less counts
	longest time.Duration // that one has to wait
	// gentle: nobody is refused, only delayed.
	gentle bool
}

// The guards. Nobody can lock an account for those at other addresses: an
// account by itself only makes them wait a little.
var (
	guardPair    = guard{free: 5, forget: 2 * time.Minute, longest: 15 * time.Minute}
	guardClient  = guard{free: 50, forget: 10 * time.Second, longest: 5 * time.Minute}
	guardAccount = guard{free: 50, forget: 10 * time.Second, longest: 2 * time.Second, gentle: true}
)

const (
	// patience is how long an attempt is held up rather than refused.
	patience = 3 * time.Second
	// maxAttempts is how many attempts of one client are looked at, at a time.
	maxAttempts = 64
	// maxCounts is how many counts are remembered.
	maxCounts = 100_000
)

// throttle slows down who guesses passwords: by account and client, by client,
// and gently by account. Attempts that are being checked count as failures, so
// that many at once are not many for nothing.
type throttle struct {
	now    func() time.Time
	seed   maphash.Seed
	counts *recent[uint64, *count]
	mu     sync.Mutex // of every count
}

// count is how many failures there were lately.
type count struct {
	level float64
	at    time.Time // of the level
	due   time.Time // when the next attempt may be made
	busy  int       // attempts that are being checked
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, seed: maphash.MakeSeed(), counts: newRecent[uint64, *count](maxCounts, time.Hour)}
}

// attempt is a login that is being checked.
type attempt struct {
	t                     *throttle
	pair, client, account *count
	wait                  time.Duration // before it may be checked
}

// outcome is how an attempt ended.
type outcome uint8

const (
	unknown outcome = iota // the source failed, for example
	right
	wrong
)

// begin starts an attempt, or fails with a *ThrottledError. The account is as the
// client says; what is remembered of it is a hash.
func (t *throttle) begin(account, client string) (*attempt, error) {
	now := t.now()
	account, client = strings.ToLower(account), network(client)
	a := &attempt{
		t:       t,
		pair:    t.count(now, "p", account, client),
		client:  t.count(now, "c", client, ""),
		account: t.count(now, "a", account, ""),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range []struct {
		of *count
		by guard
	}{{a.pair, guardPair}, {a.client, guardClient}, {a.account, guardAccount}} {
		wait, ok := c.of.wait(now, c.by)
		if !ok {
			return nil, &ThrottledError{After: wait}
		}
		a.wait = max(a.wait, wait)
	}
	if a.client.busy >= maxAttempts {
		return nil, &ThrottledError{After: time.Second}
	}
	for _, c := range []*count{a.pair, a.client, a.account} {
		c.busy++
	}
	return a, nil
}

func (t *throttle) count(now time.Time, kind, a, b string) *count {
	var h maphash.Hash
	h.SetSeed(t.seed)
	for _, s := range []string{kind, a, "\x00", b} {
		_, _ = h.WriteString(s) // never fails
	}
	return t.counts.getOrPut(h.Sum64(), now, func() *count { return &count{at: now} })
}

// wait says how long an attempt must wait, and whether it may be made after that.
func (c *count) wait(now time.Time, g guard) (time.Duration, bool) {
	c.decay(now, g)
	wait := c.due.Sub(now)
	switch {
	case g.gentle:
		return min(max(wait, 0), g.longest), true
	case wait > patience:
		return wait, false
	case c.busy > 0 && c.level+float64(c.busy) >= g.free:
		return max(wait, time.Second), false // there is one to be waited for first
	}
	return max(wait, 0), true
}

// decay forgets what time has passed over.
func (c *count) decay(now time.Time, g guard) {
	if past := now.Sub(c.at); past > 0 {
		c.level = max(0, c.level-float64(past)/float64(g.forget))
		c.at = now
	}
}

// fail counts a failure.
func (c *count) fail(now time.Time, g guard) {
	c.decay(now, g)
	c.level++
	over := c.level - g.free
	if over < 0 {
		return
	}
	wait := g.longest
	if over < 30 { // the power stays small
		wait = min(wait, time.Duration(math.Exp2(math.Round(over))*float64(time.Second)))
	}
	c.due = now.Add(wait)
	c.level = min(c.level, g.free+20)
}

// end says how the attempt ended. A login that is right clears what its account
// has failed from there.
func (a *attempt) end(how outcome) {
	now := a.t.now()
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	for _, c := range []*count{a.pair, a.client, a.account} {
		c.busy--
	}
	switch how {
	case wrong:
		a.pair.fail(now, guardPair)
		a.client.fail(now, guardClient)
		a.account.fail(now, guardAccount)
	case right:
		a.pair.level, a.pair.due = 0, time.Time{}
	case unknown:
	}
}
