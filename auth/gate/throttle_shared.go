package gate

import (
	"context"
	"time"

	"github.com/berth-registry/berth/storage"
)

// rememberLate is how long somebody who must wait is told so without a look at what
// others have counted.
const rememberLate = time.Second

// learn reads what all processes have counted, unless it is clear that the attempt may
// not be made: those who knock all the time cost nothing.
func (a *attempt) learn(ctx context.Context, now time.Time) error {
	if a.known(now) {
		return nil
	}
	before := a.changes()
	rows, err := a.t.shared.read(ctx, a.keys)
	if err != nil {
		return err
	}
	a.set(rows, &before)
	return nil
}

// known says whether somebody must wait who was told so just now.
func (a *attempt) known(now time.Time) bool {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	for i, c := range a.counts {
		if g := guardOf(i); !g.gentle && c.due.Sub(now) > patience && now.Sub(c.learnt) < rememberLate {
			return true
		}
	}
	return false
}

// changes says how often each count was set.
func (a *attempt) changes() (n [kinds]int) {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	for i, c := range a.counts {
		n[i] = c.changed
	}
	return n
}

// set has the counts be what rows say, but for those that were set after before. A
// failure that the store has not taken counts as long as it does.
func (a *attempt) set(rows [kinds]storage.Guess, before *[kinds]int) {
	now := a.t.now()
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	for i, c := range a.counts {
		if before != nil && c.changed != before[i] {
			continue
		}
		c.decay(now, guardOf(i))
		if c.unsaved && c.level > rows[i].Level {
			continue
		}
		c.learn(rows[i], now)
		c.unsaved, c.learnt = false, now
		c.changed++
	}
}

// tell tells all processes how the attempt ended. Nothing is written of one that was
// right and had not failed before.
func (a *attempt) tell(ctx context.Context, how outcome) {
	if how == unknown || how == right && !a.hasFailed() {
		return
	}
	w := &guess{keys: a.keys, right: how == right}
	if err := a.t.shared.write(ctx, w); err == nil {
		a.set(w.rows, nil)
		return
	}
	if how == right {
		return // it will be forgotten by itself
	}
	now := a.t.now()
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	a.fail(now)
	for _, c := range a.counts {
		c.unsaved = true
		c.changed++
	}
}

func (a *attempt) hasFailed() bool {
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	c := a.counts[0]
	return c.level > 0 || !c.due.IsZero()
}
