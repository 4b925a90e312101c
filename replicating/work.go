package replicating

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// lease is for how long a row is taken. Who works on it for longer extends that.
	lease = 2 * time.Minute
	// poll is how often to look what other processes have left behind.
	poll = 30 * time.Second
	// storeRetry is how long to wait when the store fails.
	storeRetry = 5 * time.Second
	// conflict is for how long at most what changed while it was replicated waits: two
	// registries that replicate to each other do not keep swapping what a tag names.
	conflict = 2 * time.Second
	// manyFailed is after how many failures in a row a success has all tried again that
	// failed meanwhile.
	manyFailed = 3
)

// Run replicates until ctx ends. It is called once. When it begins, what failed before
// is tried again at once.
func (r *Replicator) Run(ctx context.Context) {
	first := true
	for ctx.Err() == nil {
		targets := *r.targets.Load()
		r.tidy(ctx, targets)
		running, stop := context.WithCancel(ctx)
		var workers sync.WaitGroup
		for _, t := range targets {
			evenTaken := first && !r.shared // by a process that has ended
			if _, err := r.free(ctx, t, func(w row) bool { return w.Tries > 0 || w.Taken != "" && evenTaken }); err != nil && ctx.Err() == nil {
				r.log.ErrorContext(ctx, "what is to be replicated cannot be read", "target", t.name, "error", err)
			}
			for range t.jobs {
				workers.Go(func() { r.work(running, t) })
			}
		}
		first = false
		select {
		case <-ctx.Done():
		case <-r.changed:
		}
		stop()
		workers.Wait()
	}
}

// tidy removes what waits for targets that are gone.
func (r *Replicator) tidy(ctx context.Context, targets []*target) {
	known := map[string]bool{}
	for _, t := range targets {
		known[t.name] = true
	}
	for done := ""; ; { // rules of names up to this one are dealt with
		var name string
		var more bool
		err := r.meta.Update(ctx, func(tx storage.Tx) (err error) {
			more = false
			if name, err = waitingFor(tx, done); err != nil || name == "" || known[name] {
				return err
			}
			more, err = queue{tx, name}.clear()
			return err
		})
		if err != nil && ctx.Err() == nil {
			r.log.ErrorContext(ctx, "what waits for replication that is gone cannot be removed", "error", err)
		}
		if err != nil || name == "" {
			return
		}
		if !more {
			done = name
		}
	}
}

// free makes due now what which picks, and says how much that is.
func (r *Replicator) free(ctx context.Context, t *target, which func(row) bool) (freed int, err error) {
	for after := []byte(nil); ; {
		var n int
		var last []byte
		err := r.meta.Update(ctx, func(tx storage.Tx) (err error) {
			last, n, err = queue{tx, t.name}.free(after, r.now(), which)
			return err
		})
		freed += n
		if err != nil || last == nil {
			return freed, err
		}
		after = last
	}
}

// work replicates to a target, one row at a time, until ctx ends.
func (r *Replicator) work(ctx context.Context, t *target) {
	for ctx.Err() == nil {
		wait, err := r.turn(ctx, t)
		if err != nil && ctx.Err() == nil {
			r.log.ErrorContext(ctx, "what is to be replicated cannot be read", "target", t.name, "error", err)
			wait = storeRetry
		}
		if wait > 0 {
			pause(ctx, wait, t.wake)
		}
	}
}

// pause waits for a time, or until ctx ends or something can be received.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-timer.C:
	}
}

// left says for how long a target is left alone from now on, and why.
func (r *Replicator) left(t *target) (time.Duration, string) {
	now := r.now()
	if r.o.Unavailable != nil {
		if err := r.o.Unavailable(t.name); err != nil {
			t.leave.set(now.Add(max(toldWait(err), shortest)), text(err))
		}
	}
	until, why := t.leave.get(now)
	if why == "" {
		return 0, ""
	}
	return until.Sub(now), why
}

// turn replicates one row, if one is due, and returns after how long to look again.
func (r *Replicator) turn(ctx context.Context, t *target) (time.Duration, error) {
	if wait, _ := r.left(t); wait > 0 {
		return min(wait, poll), nil
	}
	now := r.now()
	var due time.Time
	var some bool
	err := r.meta.View(ctx, func(tx storage.Tx) (err error) {
		_, due, some, err = queue{tx, t.name}.first()
		return err
	})
	if err != nil || !some {
		return poll, err
	}
	if wait := due.Sub(now); wait > 0 {
		return min(wait, poll), nil
	}
	var w row
	err = r.meta.Update(ctx, func(tx storage.Tx) (err error) {
		w, some, err = queue{tx, t.name}.take(now, now.Add(lease))
		return err
	})
	if err != nil || !some {
		return 0, err
	}
	notify(t.wake) // there may be more, for the others
	return 0, r.replicate(ctx, t, w)
}

// replicate replicates a row that was taken, and notes how it went.
func (r *Replicator) replicate(ctx context.Context, t *target, w row) error {
	working, stop := context.WithCancel(ctx)
	var holding sync.WaitGroup
	holding.Go(func() { r.hold(working, stop, t, w) })
	did, failure := r.do(working, t, w)
	lost := working.Err() != nil && ctx.Err() == nil
	stop()
	holding.Wait()
	if lost {
		return nil // somebody else works on it
	}
	// What was done is noted, though everything ends now.
	return r.meta.Update(context.WithoutCancel(ctx), r.settle(ctx, t, w, did, failure))
}

// hold extends the time for which a row was taken until ctx ends, and calls lost if
// somebody else has taken it.
func (r *Replicator) hold(ctx context.Context, lost func(), t *target, w row) {
	ticker := time.NewTicker(lease / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		held := true
		err := r.meta.Update(ctx, func(tx storage.Tx) (err error) {
			held, err = queue{tx, t.name}.extend(w, r.now().Add(lease))
			return err
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil: // there is time to try again
			r.log.WarnContext(ctx, "it cannot be noted that a replication goes on", "target", t.name, "error", err)
		case !held:
			lost()
			return
		}
	}
}

// settle says how a row that was taken ends, and returns the transaction that notes it.
func (r *Replicator) settle(ctx context.Context, t *target, w row, did outcome, failure error) func(storage.Tx) error {
	now := r.now()
	if failure == nil {
		if did.asked && t.leave.succeed() >= manyFailed {
			r.log.InfoContext(ctx, "replication goes on", "target", t.name)
			r.freeFailed(ctx, t)
		}
		again := now.Add(rand.N(conflict)) //nolint:gosec // nothing is gained by guessing it
		return func(tx storage.Tx) error { return queue{tx, t.name}.done(w, did, now, again) }
	}
	if ctx.Err() != nil { // it is not the target that failed
		return func(tx storage.Tx) error {
			return queue{tx, t.name}.giveBack(w, now, func(*storage.Replication) {})
		}
	}
	r.failures.Add(1)
	k, why := judge(failure, w.Tries), text(failure)
	if k != broken {
		t.leave.fail(now, why)
	}
	if wait := toldWait(failure); wait > 0 {
		t.leave.set(now.Add(wait), why)
	}
	tries, due := w.Tries+1, now.Add(delay(w.Tries, k))
	if k == absent { // it was not tried
		tries, due = w.Tries, now.Add(shortest)
	}
	r.log.WarnContext(ctx, "cannot be replicated", "target", t.name, "what", w.String(), "tries", tries, "error", why, "again", due)
	return func(tx storage.Tx) error {
		return queue{tx, t.name}.giveBack(w, due, func(v *storage.Replication) {
			v.Tries, v.Problem, v.Failed, v.Broken = tries, why, now, k == broken
			if v.Broken && v.Changes != w.Changes { // what failed may be another one now
				v.Due = now.Add(brokenPause).UnixMicro()
			}
		})
	}
}

// freeFailed has all tried again that failed while the target did.
func (r *Replicator) freeFailed(ctx context.Context, t *target) {
	_, err := r.free(ctx, t, func(w row) bool { return w.Taken == "" && !w.Broken && w.Tries > 0 })
	if err != nil && ctx.Err() == nil {
		r.log.ErrorContext(ctx, "what failed to be replicated waits for its time", "target", t.name, "error", err)
	}
	notify(t.wake)
}
