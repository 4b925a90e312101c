package accounts

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	writeEvery = time.Minute // how often last uses are written
	sweepEvery = time.Hour   // how often expired keys are looked for
	// writeApart is how far the uses that are written of one key are apart, over all
	// replicas.
	writeApart = writeEvery - 5*time.Second
	// writeSize is how many keys one transaction writes.
	writeSize = 200
	// keepExpired is how long a key that has expired is still listed, so that who
	// wonders why it does not work finds it.
	keepExpired = 7 * 24 * time.Hour
	// sweepSize is how many keys one transaction removes.
	sweepSize = 1000
	// lastWrite is how long Run may take to end.
	lastWrite = 5 * time.Second
)

// Run does what is to be done now and then, until ctx ends: it follows what other
// replicas change, writes down when keys were used last, and removes those that
// have expired a week ago. What fails is logged and tried again.
func (s *Store) Run(ctx context.Context) {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { s.followAlways(ctx) })
	write, sweep := time.NewTicker(writeEvery), time.NewTicker(sweepEvery)
	defer write.Stop()
	defer sweep.Stop()
	s.sweep(ctx)
	for {
		select {
		case <-ctx.Done():
			s.writeLast(ctx)
			return
		case <-write.C:
			s.writeUses(ctx, writeApart)
		case <-sweep.C:
			s.sweep(ctx)
		}
	}
}

// followAlways follows what others change: when they say so, and now and then.
func (s *Store) followAlways(ctx context.Context) {
	var listening sync.WaitGroup
	defer listening.Wait()
	heard := make(chan struct{}, 1)
	if notifier, ok := s.meta.(storage.Notifier); ok && s.shared {
		listening.Go(func() {
			_ = notifier.Listen(ctx, topic, func() { // it ends with ctx, or with the store
				select {
				case heard <- struct{}{}:
				default:
				}
			})
		})
	}
	f := follower{store: s}
	f.versions, _ = s.meta.(storage.Versioner)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heard:
		case <-tick.C:
		}
		f.follow(ctx)
	}
}

// follower follows what others change in the store.
type follower struct {
	store    *Store
	versions storage.Versioner // nil if other processes write to the store
	version  uint64            // that was followed
	failed   bool
}

func (f *follower) follow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, rereadTime)
	defer cancel()
	var version uint64
	if f.versions != nil {
		if version = f.versions.Version(); version == f.version {
			return
		}
	}
	err := f.store.reread(ctx)
	if err == nil {
		f.version = version
	} else if !f.failed && !errors.Is(err, context.Canceled) {
		f.store.log.ErrorContext(ctx, "cannot follow changes of accounts and API keys", "error", err)
	}
	f.failed = err != nil
}

// uses holds when keys were used last, until that is written down.
type uses struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (u *uses) note(id string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == nil {
		u.at = map[string]time.Time{}
	}
	if now.After(u.at[id]) {
		u.at[id] = now
	}
}

func (u *uses) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	at := u.at
	u.at = nil
	return at
}

// show corrects what keys say of their last use.
func (u *uses) show(keys []Key) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range keys {
		if at := u.at[keys[i].ID]; at.After(keys[i].Used) {
			keys[i].Used = at
		}
	}
}

// writeUses writes down when keys were used, but for what others have written less than
// apart ago.
func (s *Store) writeUses(ctx context.Context, apart time.Duration) {
	if !s.shared {
		apart = 0
	}
	at := s.used.take()
	for ids := range slices.Chunk(slices.Collect(maps.Keys(at)), writeSize) {
		later, err := s.writeSome(ctx, at, ids, apart)
		if err != nil {
			later = ids
			s.log.WarnContext(ctx, "cannot write down when API keys were used", "error", err)
		}
		for _, id := range later {
			s.used.note(id, at[id])
		}
	}
}

// writeSome writes down when some keys were used, and returns those for which it is to
// be done later.
func (s *Store) writeSome(ctx context.Context, at map[string]time.Time, ids []string, apart time.Duration) (later []string, err error) {
	err = s.meta.Update(ctx, func(tx storage.Tx) error {
		later = nil
		for _, id := range ids {
			row, err := getKey(tx, id)
			if errors.Is(err, errNoKey) {
				continue // revoked since
			}
			if err != nil {
				return err
			}
			switch t := at[id]; {
			case !t.After(row.Used):
				continue
			case t.Sub(row.Used) < apart:
				later = append(later, id)
				continue
			default:
				row.Used = t
			}
			if err := storage.APIKeys.Put(tx, storage.Key(id), row); err != nil {
				return err
			}
		}
		return nil
	})
	return later, err
}

// writeLast is writeUses for when ctx has ended.
func (s *Store) writeLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	s.writeUses(ctx, 0)
}

// sweep removes keys that have expired long ago.
func (s *Store) sweep(ctx context.Context) {
	before := s.now().Add(-keepExpired)
	for ids := range slices.Chunk(s.known.expired(before), sweepSize) {
		err := s.update(ctx, func(tx storage.Tx, _ int64) (d delta, err error) {
			for _, id := range ids {
				if err := storage.APIKeys.Delete(tx, storage.Key(id)); err != nil {
					return d, err
				}
			}
			return delta{revoked: ids}, nil
		})
		if err != nil {
			s.log.WarnContext(ctx, "cannot remove expired API keys", "error", err)
			return
		}
	}
}
