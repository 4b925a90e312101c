package audit

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/storage"
)

// OutboxOptions are what an Outbox can be told.
type OutboxOptions struct {
	// Source is the source of the CloudEvents, the URL of the registry for example;
	// "berth" if it is empty.
	Source string
	// MaxPending is how many events wait for a webhook at most; beyond it the
	// oldest are dropped, which is logged and counted. 100,000 if it is 0. Where several
	// processes share a store it may be some hundreds more for a while.
	MaxPending int
	// MaxAge is after how long an event that could not be delivered is dropped; 7
	// days if it is 0.
	MaxAge time.Duration
	// Now is time.Now if it is nil.
	Now func() time.Time
	// Log is told of deliveries that fail and of events that are dropped.
	Log *slog.Logger
}

const (
	defaultMaxPending = 100_000
	defaultMaxAge     = 7 * 24 * time.Hour
)

// Outbox is where events wait for webhooks: rows in the store, written in the
// transaction that makes what they tell of.
//
// It promises that an event in it is delivered at least once, unless it is
// dropped (OutboxOptions), and that a webhook gets events in the order in which
// their transactions were made; where several processes share a store, those of
// transactions that ran at the same time and changed different things in any order. An event may come twice or more often, after a crash
// for example, with the same id. Where several processes share a store one of them
// delivers to a webhook at a time, and takes over from one that has crashed
// within a minute or two; they must have the same webhooks and clocks that agree to
// within seconds.
type Outbox struct {
	meta    storage.Meta
	shared  bool // other processes may write to meta
	o       OutboxOptions
	now     func() time.Time
	log     *slog.Logger
	hooks   atomic.Pointer[[]*hook]
	changed chan struct{} // hooks are others
	pulls   pullBuffer
}

// NewOutbox makes an outbox for webhooks in meta. Nothing is delivered before Run.
func NewOutbox(meta storage.Meta, hooks []Webhook, o OutboxOptions) (*Outbox, error) {
	o.Source = cmp.Or(o.Source, "berth")
	if _, err := url.Parse(o.Source); err != nil {
		return nil, fmt.Errorf("the source of events is no URI reference: %q", o.Source)
	}
	o.MaxPending = cmp.Or(o.MaxPending, defaultMaxPending)
	o.MaxAge = cmp.Or(o.MaxAge, defaultMaxAge)
	if o.MaxPending < 0 || o.MaxAge < 0 {
		return nil, fmt.Errorf("an outbox for %d events of at most %s", o.MaxPending, o.MaxAge)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	_, alone := meta.(storage.Versioner)
	out := &Outbox{
		meta: meta, shared: !alone, o: o, now: o.Now, log: o.Log,
		changed: make(chan struct{}, 1), pulls: pullBuffer{some: make(chan struct{}, 1)},
	}
	out.hooks.Store(new([]*hook))
	if err := out.SetHooks(hooks); err != nil {
		return nil, err
	}
	return out, nil
}

// SetHooks sets other webhooks. What waits for those that are gone is removed, if
// Run runs, and those that are there are tried again at once. After an error
// the webhooks are as they were.
func (o *Outbox) SetHooks(hooks []Webhook) error {
	old := *o.hooks.Load()
	list := make([]*hook, 0, len(hooks))
	var problems []error
	for _, w := range hooks {
		h, err := newHook(w)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if named(list, w.Name) != nil {
			problems = append(problems, fmt.Errorf("two webhooks of the name %s", w.Name))
		}
		if before := named(old, w.Name); before != nil {
			h.counts = before.counts
		}
		list = append(list, h)
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	o.hooks.Store(&list)
	notify(o.changed)
	return nil
}

func named(hooks []*hook, name string) *hook {
	i := slices.IndexFunc(hooks, func(h *hook) bool { return h.name == name })
	if i < 0 {
		return nil
	}
	return hooks[i]
}

func (o *Outbox) wantsAny() bool { return len(*o.hooks.Load()) > 0 }

func (o *Outbox) wants(e *Event) bool {
	return slices.ContainsFunc(*o.hooks.Load(), func(h *hook) bool { return h.wants(e) })
}

// Append writes an event for each webhook that wants it; with the transaction it
// becomes durable, or never was. Delivery begins when Journal.Done is called.
func (o *Outbox) Append(tx storage.Tx, e Event) error {
	var body []byte
	var id string
	var number int64
	for _, h := range *o.hooks.Load() {
		if !h.wants(&e) {
			continue
		}
		if body == nil {
			if e.Time.IsZero() {
				e.Time = o.now()
			}
			var err error
			id = rand.Text()
			if body, err = e.cloud(id, o.o.Source); err != nil {
				return fmt.Errorf("encode an event: %w", err)
			}
			if number, err = storage.Next(tx, storage.CountEvents); err != nil {
				return err
			}
		}
		q := queue{tx: tx, name: h.name}
		err := q.add(number, storage.Delivery{ID: id, Body: body, Made: o.now()})
		if err == nil && (!o.shared || mathrand.IntN(checkLimit) == 0) { //nolint:gosec // any one will do
			err = q.limit(o.o.MaxPending)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkLimit is how many events there are for each one that has it checked whether too
// many wait, where several processes write: whoever counts them all keeps the others from
// adding some.
const checkLimit = 64

// wake has each webhook look whether there is something to deliver.
func (o *Outbox) wake() {
	for _, h := range *o.hooks.Load() {
		notify(h.wake)
	}
}

// notify makes c readable.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is already
	}
}

// OutboxStats say how an outbox does.
type OutboxStats struct {
	Webhooks []WebhookStats
	// LostPulls is how many pulls were never written to the outbox.
	LostPulls int64
}

// WebhookStats say how a webhook does.
type WebhookStats struct {
	Name    string
	Pending int64     // events that wait
	Oldest  time.Time // since when the first of them does; zero if none
	Dropped int64     // events that were given up, ever
	// Delivered and Failed count requests of this process.
	Delivered, Failed int64
}

// Stats returns figures that are kept, not computed.
func (o *Outbox) Stats(ctx context.Context) (s OutboxStats, err error) {
	hooks := *o.hooks.Load()
	s.Webhooks = make([]WebhookStats, len(hooks))
	err = o.meta.View(ctx, func(tx storage.Tx) error {
		for i, h := range hooks {
			q := queue{tx: tx, name: h.name}
			w, err := q.stats()
			if err != nil {
				return err
			}
			w.Delivered, w.Failed = h.counts.delivered.Load(), h.counts.failed.Load()
			s.Webhooks[i] = w
		}
		return nil
	})
	o.pulls.mu.Lock()
	defer o.pulls.mu.Unlock()
	s.LostPulls = o.pulls.lost
	return s, err
}
