package gate

import (
	"context"
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
//
// Where several processes serve, the counts are those of all of them (guesses), and what
// is being checked counts once for each of them, as they may do the same. When an attempt
// may be made that had to wait, each of them may make one; as that makes the next wait
// longer, they make no more over time than one process would. The clocks of processes
// must agree to within seconds.
type throttle struct {
	shared   *guesses   // or nil
	replicas func() int // how many processes there are

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

	learnt  time.Time // when it was read last, of a shared count
	changed int       // how often it was set
	unsaved bool      // the store has not taken a failure
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{replicas: func() int { return 1 }, now: now, seed: maphash.MakeSeed(), counts: newRecent[uint64, *count](maxCounts, time.Hour)}
}

// attempt is a login that is being checked.
type attempt struct {
	t      *throttle
	keys   [kinds]string // of the rows, if they are shared
	counts [kinds]*count // by account and client, by client, by account
	wait   time.Duration // before it may be checked
}

// outcome is how an attempt ended.
type outcome uint8

const (
	unknown outcome = iota // the source failed, for example
	right
	wrong
)

// begin starts an attempt, or fails with a *ThrottledError, or as the store does. The
// account is as the client says; what is remembered of it is a hash.
func (t *throttle) begin(ctx context.Context, account, client string) (*attempt, error) {
	now := t.now()
	account, client = strings.ToLower(account), network(client)
	a := &attempt{t: t, counts: [kinds]*count{
		t.count(now, "p", account, client), t.count(now, "c", client, ""), t.count(now, "a", account, ""),
	}}
	if t.shared != nil {
		a.keys = guessKeys(account, client)
		if err := a.learn(ctx, now); err != nil {
			return nil, err
		}
	}
	if err := a.enter(t.now()); err != nil {
		return nil, err
	}
	return a, nil
}

// enter has the attempt be one that is checked.
func (a *attempt) enter(now time.Time) error {
	t, replicas := a.t, float64(a.t.replicas())
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, c := range a.counts {
		wait, ok := c.wait(now, guardOf(i), replicas)
		if !ok {
			return &ThrottledError{After: wait}
		}
		a.wait = max(a.wait, wait)
	}
	if a.counts[1].busy >= maxAttempts {
		return &ThrottledError{After: time.Second}
	}
	for _, c := range a.counts {
		c.busy++
	}
	return nil
}

func (t *throttle) count(now time.Time, kind, a, b string) *count {
	var h maphash.Hash
	h.SetSeed(t.seed)
	for _, s := range []string{kind, a, "\x00", b} {
		_, _ = h.WriteString(s) // never fails
	}
	return t.counts.getOrPut(h.Sum64(), now, func() *count { return &count{at: now} })
}

// wait says how long an attempt must wait, and whether it may be made after that, if as
// many are being checked by each of some processes.
func (c *count) wait(now time.Time, g guard, replicas float64) (time.Duration, bool) {
	c.decay(now, g)
	wait := c.due.Sub(now)
	switch {
	case g.gentle:
		return min(max(wait, 0), g.longest), true
	case wait > patience:
		return wait, false
	case c.busy > 0 && c.level+replicas*float64(c.busy) >= g.free:
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
func (a *attempt) end(ctx context.Context, how outcome) {
	if a.t.shared != nil {
		a.tell(ctx, how)
		a.leave()
		return
	}
	defer a.leave()
	now := a.t.now()
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	switch how {
	case wrong:
		a.fail(now)
	case right:
		a.counts[0].level, a.counts[0].due = 0, time.Time{}
	case unknown:
	}
}

// fail counts a failure. The throttle is locked.
func (a *attempt) fail(now time.Time) {
	for i, c := range a.counts {
		c.fail(now, guardOf(i))
	}
}

// leave has the attempt be one no longer that is being checked.
func (a *attempt) leave() {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	for _, c := range a.counts {
		c.busy--
	}
}
