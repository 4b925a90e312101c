package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/internal/telemetry"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/lease"
)

const (
	// noteEvery is how old what the notes say may become. The last part of it is left
	// to chance.
	noteEvery  = time.Minute
	noteJitter = 10 * time.Second
	// lastNotes is how long a server that ends takes for the last notes.
	lastNotes = 20 * time.Second
)

// noter notes what the metadata says beside the blobs, for 'berth rebuild'.
type noter struct {
	local *registry.Local
	meta  storage.Meta
	notes storage.Notes
	log   *slog.Logger
	idle  atomic.Bool // another server notes

	mu   sync.Mutex
	upTo time.Time // what has changed before is noted
}

func newNoter(o healthOptions) *noter {
	n := &noter{local: o.local, meta: o.meta, notes: o.notes, log: o.log, upTo: time.Now()}
	n.idle.Store(o.shared())
	return n
}

// Run notes what changes, and at the end of ctx what has changed by then.
func (n *noter) Run(ctx context.Context) {
	if n.idle.Swap(false) {
		n.noted(time.Now())
		defer n.idle.Store(true)
	}
	for {
		n.note(ctx)
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), lease.ErrLost) {
				return // another server does it
			}
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastNotes)
			n.note(last)
			cancel()
			return
		case <-time.After(noteEvery - rand.N(noteJitter)): //nolint:gosec // it need not be hard to guess
		}
	}
}

func (n *noter) note(ctx context.Context) {
	begin := time.Now()
	if _, err := n.local.Snapshot(ctx, n.notes); err != nil {
		if ctx.Err() == nil {
			n.log.WarnContext(ctx, "cannot note what the metadata says; will try again", "error", err)
		}
		return
	}
	n.noted(begin)
}

func (n *noter) noted(upTo time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.upTo = upTo
}

// lag is how old the oldest change may be that is not noted; 0 where another server
// notes.
func (n *noter) lag(ctx context.Context) (lag time.Duration, err error) {
	if n.idle.Load() {
		return 0, nil
	}
	n.mu.Lock()
	upTo := n.upTo
	n.mu.Unlock()
	err = n.meta.View(ctx, func(tx storage.Tx) error {
		for _, err := range storage.Changed.Scan(tx, nil, nil) {
			lag = time.Since(upTo)
			return err
		}
		return nil
	})
	return lag, err
}

func noteGauges(m *telemetry.Metrics, n *noter) {
	m.Gauge("berth_notes_lag_seconds", "How old the oldest change of a repository may be that is not noted for a rebuild; 0 if all is noted.", func(ctx context.Context) float64 {
		lag, err := n.lag(ctx)
		if err != nil {
			return math.NaN()
		}
		return lag.Seconds()
	})
}
