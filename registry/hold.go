package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// holdTime is how long bytes are held for a process that has died, but for clockSkew.
	holdTime = 2 * time.Minute
	// collectors is how many rows there are for transactions that write tombstones:
	// enough that two processes rarely write to the same one.
	collectors = 16
)

// holds are those in this process who need stored bytes to stay for a while.
type holds struct {
	mu sync.Mutex // held while bytes are found to be garbage, and until they are gone
	n  int
}

func (h *holds) add(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n += n
}

// HoldCollection keeps collection, in all processes, from deleting stored bytes until
// release is called: those that a transaction shows which begins after it has returned
// stay, unless it shows a tombstone for them. Reviews of them stay queued; manifests
// and links go as ever. It waits for the few deletions that are under way in this
// process.
//
// Where other processes share the metadata it may fail. A process that cannot write
// there for longer than two minutes loses its hold, and logs that.
func (l *Local) HoldCollection(ctx context.Context) (release func(), err error) {
	l.holds.add(1)
	if !l.shared() {
		return sync.OnceFunc(func() { l.holds.add(-1) }), nil
	}
	id := rand.Text()
	if _, err := l.putHold(ctx, id); err != nil {
		l.holds.add(-1)
		return nil, fmt.Errorf("hold the collection: %w", err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var renewing sync.WaitGroup
	renewing.Go(func() { l.renewHold(ctx, id) })
	return sync.OnceFunc(func() {
		stop()
		renewing.Wait()
		l.endHold(context.WithoutCancel(ctx), id)
		l.holds.add(-1)
	}), nil
}

// putHold writes the row of a hold, and says whether it was there.
func (l *Local) putHold(ctx context.Context, id string) (there bool, err error) {
	err = l.meta.Update(ctx, func(tx storage.Tx) error {
		for _, err := range storage.Collecting.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
		}
		if there, err = storage.Holds.Has(tx, storage.Key(id)); err != nil {
			return err
		}
		return storage.Holds.Put(tx, storage.Key(id), storage.Hold{Until: time.Now().Add(holdTime)})
	})
	return there, err
}

// renewHold renews a hold until ctx ends.
func (l *Local) renewHold(ctx context.Context, id string) {
	for renewed := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(holdTime / 6):
		}
		begin := time.Now()
		there, err := l.putHold(ctx, id)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.log.WarnContext(ctx, "cannot renew what holds the collection; will try again", "renewed", renewed, "error", err)
			continue
		case !there:
			l.log.ErrorContext(ctx, "the collection was not held for a while: bytes that a backup needs may be gone", "since", renewed.Add(holdTime))
		}
		renewed = begin
	}
}

// endHold removes a hold. If it cannot, it ends by time.
func (l *Local) endHold(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, holdTime/6)
	defer cancel()
	if err := l.meta.Update(ctx, func(tx storage.Tx) error { return storage.Holds.Delete(tx, storage.Key(id)) }); err != nil {
		l.log.WarnContext(ctx, "cannot take back what holds the collection; it ends by itself", "in", holdTime+clockSkew, "error", err)
	}
}

// held says whether any process holds the collection, and removes holds of dead ones.
func (c *changing) held() (bool, error) {
	var dead [][]byte
	now, held := time.Now().Add(-clockSkew), false
	for e, err := range storage.Holds.Scan(c, nil, nil) {
		if err != nil {
			return false, err
		}
		if e.Value.Until.After(now) {
			held = true
		} else {
			dead = append(dead, append([]byte(nil), e.Key...))
		}
	}
	var err error
	for _, key := range dead {
		err = errors.Join(err, storage.Holds.Delete(c, key))
	}
	return held, err
}

// collects has a transaction that holds the collection, at the same time as this one
// that writes tombstones, see it or be seen.
func (c *changing) collects() error {
	n := mathrand.N[int64](collectors)
	return storage.Collecting.Put(c, storage.Key(storage.NumberPart(n)), storage.Counter{N: c.now.UnixMicro()})
}
