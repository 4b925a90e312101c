// Package rounds has many callers share what is costly: each of them gets the result of
// a call that began after its own, and there are no more than one at a time, and no more
// than one in a while, however many callers there are.
package rounds

import (
	"context"
	"sync"
	"time"
)

// Rounds calls a function for all who join. Its methods may be called concurrently.
type Rounds struct {
	fn    func(context.Context) error
	every time.Duration
	most  time.Duration

	turn chan struct{} // holds something while no round runs
	last time.Time     // when the last one began; for who has the turn

	mu   sync.Mutex
	next *round // that has not begun; nil if nobody waits
}

// round is a call, and those who wait for it.
type round struct {
	done chan struct{}
	err  error // when done is closed
}

// New makes rounds of calls of fn that begin at least every apart and take most at most,
// by their context.
func New(fn func(context.Context) error, every, most time.Duration) *Rounds {
	r := &Rounds{fn: fn, every: every, most: most, turn: make(chan struct{}, 1)}
	r.turn <- struct{}{}
	return r
}

// Join waits for a round that begins from now on, and returns its error, or that of ctx.
func (r *Rounds) Join(ctx context.Context) error {
	r.mu.Lock()
	w := r.next
	if w == nil {
		w = &round{done: make(chan struct{})}
		r.next = w
		go r.run(context.WithoutCancel(ctx), w)
	}
	r.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run makes a round when its time has come. It does not end with who was first to join.
func (r *Rounds) run(ctx context.Context, w *round) {
	<-r.turn
	defer func() { r.turn <- struct{}{} }()
	defer close(w.done)
	if !r.last.IsZero() {
		time.Sleep(r.every - time.Since(r.last))
	}
	r.mu.Lock()
	r.next = nil // who comes now may have come too late
	r.mu.Unlock()
	r.last = time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.most)
	defer cancel()
	w.err = r.fn(ctx)
}
