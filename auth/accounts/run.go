package accounts

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	followEvery = 2 * time.Second // how often it is asked what other replicas have changed
	writeEvery  = time.Minute     // how often last uses are written
	sweepEvery  = time.Hour       // how often expired keys are looked for
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
	follow, write, sweep := time.NewTicker(followEvery), time.NewTicker(writeEvery), time.NewTicker(sweepEvery)
	defer follow.Stop()
	defer write.Stop()
	defer sweep.Stop()
	f := follower{store: s}
	f.versions, _ = s.meta.(storage.Versioner)
	s.sweep(ctx)
	for {
		select {
		case <-ctx.Done():
			s.writeLast(ctx)
			return
		case <-follow.C:
			f.follow(ctx)
		case <-write.C:
			s.writeUses(ctx)
		case <-sweep.C:
			s.sweep(ctx)
		}
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
	var version uint64
	if f.versions != nil {
		if version = f.versions.Version(); version == f.version {
			return
		}
	}
	err := f.store.reread(ctx)
	if err == nil {
		f.version = version
	} else if !f.failed && ctx.Err() == nil {
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

// writeUses writes down when keys were used.
func (s *Store) writeUses(ctx context.Context) {
	at := s.used.take()
	if len(at) == 0 {
		return
	}
	err := s.meta.Update(ctx, func(tx storage.Tx) error {
		for id, t := range at {
			row, err := getKey(tx, id)
			if errors.Is(err, errNoKey) {
				continue // revoked since
			}
			if err != nil {
				return err
			}
			if !t.After(row.Used) {
				continue
			}
			row.Used = t
			if err := storage.APIKeys.Put(tx, storage.Key(id), row); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return
	}
	for id, t := range at {
		s.used.note(id, t)
	}
	s.log.WarnContext(ctx, "cannot write down when API keys were used", "error", err)
}

// writeLast is writeUses for when ctx has ended.
func (s *Store) writeLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	s.writeUses(ctx)
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
