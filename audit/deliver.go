package audit

import (
	"context"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// batch is how many events are taken at once. After a crash as many may come
	// twice.
	batch = 64
	// poll is how often to look what other processes have left behind.
	poll = 30 * time.Second
	// storeRetry is how long to wait when the store fails.
	storeRetry = 5 * time.Second
	// tellEvery is how often the log is told of dropped events.
	tellEvery = time.Minute
)

// Run delivers until ctx ends, on a goroutine for each webhook. It is called once.
// When it begins, webhooks that failed before are tried again at once.
func (o *Outbox) Run(ctx context.Context) {
	var pulls sync.WaitGroup
	pulls.Go(func() { o.writePulls(ctx) })
	defer pulls.Wait()
	for ctx.Err() == nil {
		hooks := *o.hooks.Load()
		o.tidy(ctx, hooks)
		stop := make(chan struct{})
		var workers sync.WaitGroup
		for _, h := range hooks {
			workers.Go(func() { o.work(ctx, stop, h) })
		}
		select {
		case <-ctx.Done():
		case <-o.changed:
		}
		close(stop)
		workers.Wait()
		for _, h := range hooks {
			h.client.CloseIdleConnections()
		}
	}
}

// tidy removes what waits for webhooks that are gone.
func (o *Outbox) tidy(ctx context.Context, hooks []*hook) {
	for done := ""; ; { // webhooks of names up to this one are dealt with
		var name string
		var more bool
		err := o.meta.Update(ctx, func(tx storage.Tx) (err error) {
			more = false
			if name, err = waitingFor(tx, done); err != nil || name == "" || named(hooks, name) != nil {
				return err
			}
			more, err = queue{tx, name}.clear()
			return err
		})
		if err != nil && ctx.Err() == nil {
			o.log.ErrorContext(ctx, "what waits for webhooks that are gone cannot be removed", "error", err)
		}
		if err != nil || name == "" {
			return
		}
		if !more {
			done = name
		}
	}
}

// work delivers to a webhook until ctx ends, or until stop is closed and what is
// being sent has been answered.
func (o *Outbox) work(ctx context.Context, stop <-chan struct{}, h *hook) {
	err := o.meta.Update(ctx, func(tx storage.Tx) error { return queue{tx, h.name}.free(!o.shared) })
	if err != nil && ctx.Err() == nil {
		o.log.ErrorContext(ctx, "the outbox cannot be read", "webhook", h.name, "error", err)
	}
	for {
		wait, err := o.turn(ctx, stop, h)
		if ctx.Err() != nil || closedNow(stop) {
			return
		}
		if err != nil {
			o.log.ErrorContext(ctx, "the outbox cannot be read", "webhook", h.name, "error", err)
			wait = storeRetry
		}
		pause(ctx, wait, stop, h.wake)
	}
}

// pause waits for a time, or until ctx ends or something can be received.
func pause(ctx context.Context, d time.Duration, stop, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-stop:
	case <-wake:
	case <-t.C:
	}
}

func closedNow(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// turn delivers what is due, and returns after how long to look again.
func (o *Outbox) turn(ctx context.Context, stop <-chan struct{}, h *hook) (time.Duration, error) {
	for {
		var due time.Time
		var some bool
		var dropped int64
		err := o.meta.View(ctx, func(tx storage.Tx) (err error) {
			q := queue{tx, h.name}
			if due, some, err = q.due(); err == nil {
				dropped, err = q.dropped()
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		o.tellDropped(ctx, h, dropped)
		if !some {
			return poll, nil
		}
		if wait := due.Sub(o.now()); wait > 0 {
			return min(wait, poll), nil
		}
		if err := o.deliver(ctx, stop, h); err != nil || ctx.Err() != nil || closedNow(stop) {
			return 0, err
		}
	}
}

// deliver takes what is first in the queue and sends it, event by event, as long
// as it arrives.
func (o *Outbox) deliver(ctx context.Context, stop <-chan struct{}, h *hook) error {
	begin := o.now()
	// Within the first half another event may be begun, which has the other one.
	half := 2*h.timeout + 5*time.Second
	until := begin.Add(2 * half).Truncate(time.Second)
	var rows []waiting
	err := o.meta.Update(ctx, func(tx storage.Tx) (err error) {
		rows, err = queue{tx, h.name}.take(begin, until, begin.Add(-o.o.MaxAge), batch)
		return err
	})
	if err != nil || len(rows) == 0 {
		return err
	}
	delivered, retry := 0, time.Time{}
	for _, row := range rows {
		if ctx.Err() != nil || closedNow(stop) || o.now().Sub(begin) > half {
			break
		}
		if err := h.send(ctx, row.Value, o.now()); err != nil {
			if ctx.Err() == nil { // otherwise it is not the webhook that failed
				retry = o.now().Add(delay(row.Value.Tries, err))
				o.failed(ctx, h, row.Value, retry, err)
			}
			break
		}
		delivered++
		h.counts.delivered.Add(1)
	}
	if delivered > 0 && rows[0].Value.Tries > 0 {
		o.log.InfoContext(ctx, "webhook takes events again", "webhook", h.name, "tries", rows[0].Value.Tries+1)
	}
	// What was delivered is, though everything ends now.
	done := false
	err = o.meta.Update(context.WithoutCancel(ctx), func(tx storage.Tx) (err error) {
		done, err = queue{tx, h.name}.giveBack(until, rows[:delivered], retry)
		return err
	})
	if err == nil && !done {
		o.log.WarnContext(ctx, "events will come twice: their delivery took too long, and another process has begun it", "webhook", h.name)
	}
	return err
}

func (o *Outbox) failed(ctx context.Context, h *hook, d storage.Delivery, retry time.Time, err error) {
	h.counts.failed.Add(1)
	o.log.WarnContext(ctx, "webhook failed", "webhook", h.name, "id", d.ID, "tries", d.Tries+1, "error", err, "again", retry)
}

// tellDropped logs that events were dropped, now and then.
func (o *Outbox) tellDropped(ctx context.Context, h *hook, dropped int64) {
	c := h.counts
	n, now := dropped-c.told.Load(), o.now().Unix()
	if n <= 0 || now-c.toldAt.Load() < int64(tellEvery/time.Second) {
		return
	}
	c.told.Store(dropped)
	c.toldAt.Store(now)
	o.log.ErrorContext(ctx, "events for a webhook were dropped: too many waited, or for too long", "webhook", h.name, "events", n, "ever", dropped)
}
