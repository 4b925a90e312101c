// Package lease has one of several processes that share a store do a job at a time.
//
// It promises that no two processes have a lease of one name at the same time, as each
// of them measures time: their clocks may differ by any amount, if what one of them
// takes for a second is at most a quarter more than what another one does, and if what
// is done under the lease ends within a third of its time to live after its context
// has. When a process dies, another one has the lease after a quarter more than that
// time.
//
// It cannot promise more: a process that stands still while it does something may end
// that after another has begun. So what is done under a lease must do no harm if it is
// done twice, or look again in its transactions; the lease saves work.
//
// Where nobody else writes to the store (storage.Versioner) nothing is written, and
// the lease is always there.
package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"github.com/berth-registry/berth/storage"
)

// ErrLost is the cause of the end of a context (context.Cause) whose lease was lost.
var ErrLost = errors.New("another process may have the lease now")

// patience is after how many hundredths of the time to live a lease that is not renewed
// is taken: its holder's clock may be that much slower.
const patience = 125

// defaultTTL is the time to live of a lease unless Options say another.
const defaultTTL = 30 * time.Second

// Options are what Run can be told.
type Options struct {
	// TTL is how long a process that has died keeps others from the job; 0 for 30
	// seconds. Of processes that say different ones, the longest holds.
	TTL time.Duration
	// Owner is what the process is called, for people who look.
	Owner string
	// Now is the clock that time is measured by; nil for time.Now.
	Now func() time.Time
	// Log receives who has the lease, and failures; nil is none.
	Log *slog.Logger
}

// Run calls fn when this process has the lease of a name, and returns when fn has
// returned by itself, or once ctx has ended. The context of fn ends with ctx, and with
// ErrLost when the lease is lost, or could not be renewed in time; then fn is called
// again once the process has it again. The lease is renewed until fn has returned, and
// then given up at once, so that fn can bring to an end what it does.
func Run(ctx context.Context, meta storage.Meta, name string, o Options, fn func(ctx context.Context)) {
	if _, alone := meta.(storage.Versioner); alone {
		fn(ctx)
		return
	}
	if o.TTL <= 0 {
		o.TTL = defaultTTL
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &lease{Options: o, meta: meta, name: name}
	for l.acquire(ctx) && !l.hold(ctx, fn) {
	}
}

// lease is a lease that this process has, or waits for.
type lease struct {
	Options
	meta    storage.Meta
	name    string
	holder  string    // what this process is called in the row, while it has the lease
	renewed time.Time // from when on the time to live counts
}

func (l *lease) key() []byte { return storage.Key(l.name) }

// acquire waits for the lease, and says whether it has it: not once ctx has ended.
func (l *lease) acquire(ctx context.Context) bool {
	var seen storage.Lease // as the row is
	var since time.Time    // when it was first seen like that
	failing := false
	for ctx.Err() == nil {
		row, err := l.look(ctx)
		now := l.Now() // after the look: whoever has renewed it meanwhile did so before
		if row != seen || since.IsZero() {
			seen, since = row, now
		}
		if err == nil && (row == storage.Lease{} || now.Sub(since) >= patience*max(row.TTL, l.TTL)/100) {
			var taken bool
			if taken, err = l.take(ctx, row); taken && err == nil {
				l.Log.DebugContext(ctx, "this process does the job", "job", l.name, "before", row.Owner)
				return true
			}
		}
		if err != nil && !failing && ctx.Err() == nil {
			l.Log.WarnContext(ctx, "cannot find out which process does a job; will try again", "job", l.name, "error", err)
		}
		failing = err != nil
		l.pause(ctx, l.TTL/4)
	}
	return false
}

// look reads the row; without one it is the zero value.
func (l *lease) look(ctx context.Context) (row storage.Lease, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.TTL)
	defer cancel()
	err = l.meta.View(ctx, func(tx storage.Tx) (err error) {
		row, err = l.get(tx)
		return err
	})
	return row, err
}

func (l *lease) get(tx storage.Tx) (row storage.Lease, err error) {
	row, err = storage.Leases.Get(tx, l.key())
	if errors.Is(err, storage.ErrNotFound) {
		return storage.Lease{}, nil
	}
	row.Since = row.Since.UTC() // so that rows can be compared
	return row, err
}

// take takes the lease, if the row is still as it was seen.
func (l *lease) take(ctx context.Context, seen storage.Lease) (taken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.TTL/3)
	defer cancel()
	l.holder, l.renewed = rand.Text(), l.Now()
	err = l.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := l.get(tx)
		if taken = err == nil && row == seen; !taken {
			return err
		}
		return storage.Leases.Put(tx, l.key(), storage.Lease{Holder: l.holder, Owner: l.Owner, Beat: 1, TTL: l.TTL, Since: l.renewed})
	})
	return taken, err
}

// hold calls fn under the lease, and says whether that is all: fn has returned by
// itself, or ctx has ended.
func (l *lease) hold(ctx context.Context, fn func(context.Context)) bool {
	mine, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		fn(mine)
	}()
	ctx = context.WithoutCancel(ctx)
	if err := l.keep(ctx, ended); err != nil {
		cancel(ErrLost)
		l.Log.WarnContext(ctx, "this process does a job no longer: its lease could not be renewed", "job", l.name, "error", err)
		<-ended
		return false
	}
	l.giveUp(ctx)
	return true
}

// keep renews the lease until ended, which is no error, or until it is lost.
func (l *lease) keep(ctx context.Context, ended <-chan struct{}) error {
	timer := time.NewTimer(l.TTL / 3)
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return nil
		case <-timer.C:
		}
		err := l.renew(ctx)
		switch {
		case err == nil:
			timer.Reset(l.TTL / 3)
		case errors.Is(err, ErrLost), l.left() <= 0:
			return err
		default:
			timer.Reset(min(l.TTL/20, l.left()))
		}
	}
}

// left is for how long the lease is sure, and there is time to end what is done under
// it.
func (l *lease) left() time.Duration { return l.TTL*2/3 - l.Now().Sub(l.renewed) }

// renew renews the lease.
func (l *lease) renew(ctx context.Context) error {
	begin := l.Now()
	ctx, cancel := context.WithTimeout(ctx, l.left())
	defer cancel()
	err := l.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := l.get(tx)
		if err != nil {
			return err
		}
		if row.Holder != l.holder {
			return ErrLost
		}
		row.Beat++
		return storage.Leases.Put(tx, l.key(), row)
	})
	if err == nil && l.left() <= 0 {
		err = ErrLost // it came too late
	}
	if err == nil {
		l.renewed = begin
	}
	return err
}

// giveUp lets others have the lease at once. If that fails they have it when its time
// is over.
func (l *lease) giveUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.TTL/3)
	defer cancel()
	err := l.meta.Update(ctx, func(tx storage.Tx) error {
		row, err := l.get(tx)
		if err != nil || row.Holder != l.holder {
			return err
		}
		return storage.Leases.Delete(tx, l.key())
	})
	if err != nil {
		l.Log.WarnContext(ctx, "a job cannot be given up; another process will do it a little later", "job", l.name, "error", err)
	}
}

// pause waits about as long as d.
func (l *lease) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d/2 + mathrand.N(d)) //nolint:gosec // it keeps no secret
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
