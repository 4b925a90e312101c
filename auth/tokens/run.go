package tokens

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

const (
	// interval is how often Run reads the keys of the store.
	interval = 30 * time.Second
	// lead is how long before it signs a key is made, if nothing hurries: every
	// replica has read it a few times by then. With a short Options.Rotate it is a
	// quarter of that.
	lead = 4 * interval
	// apart is the least time between two readings: tokens with made-up keys, by
	// which anybody can ask for one, cost no more than this.
	apart = time.Second
	// lookTime is how long what is signed with a key that is not known waits for it.
	lookTime = 3 * time.Second
	// sweeping is how often Run removes what has expired.
	sweeping = time.Hour
	// topic is what a process that has made a key notifies the others of.
	topic = "signers"
)

// Run keeps the keys up to date until ctx ends: it makes a new key when it is time,
// reads those that other replicas have made, and removes refresh tokens and keys
// whose time has passed. A failure is logged; the next round tries again.
func (s *Service) Run(ctx context.Context) {
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() { s.listen(ctx) })
	tick := time.NewTicker(min(interval, s.o.Rotate/8))
	defer tick.Stop()
	var swept time.Time
	for {
		if err := s.reload(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.ErrorContext(ctx, "Cannot read the keys that sign tokens: those known stay in force", "error", err)
		}
		if time.Since(swept) >= sweeping {
			swept = time.Now()
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.o.Log.ErrorContext(ctx, "Cannot remove expired tokens and keys: tried again later", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(apart):
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.nudge:
		}
	}
}

// missing reads the keys again, as another replica may have made one just now, and says
// whether it did. Whoever comes meanwhile waits for the same reading. Where nobody else
// writes to the store it has Run do so soon: there is no such key.
func (s *Service) missing() bool {
	if !s.shared {
		s.hurry()
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	return s.looks.Join(ctx) == nil
}

// hurry has Run read the keys soon.
func (s *Service) hurry() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// tell has other replicas read the keys.
func (s *Service) tell(ctx context.Context) {
	notifier, ok := s.meta.(storage.Notifier)
	if !ok || !s.shared {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
	defer cancel()
	if err := notifier.Notify(ctx, topic); err != nil {
		s.o.Log.DebugContext(ctx, "Other servers hear of a key when they see something signed with it", "error", err)
	}
}

// listen hears of keys that other replicas have made.
func (s *Service) listen(ctx context.Context) {
	if notifier, ok := s.meta.(storage.Notifier); ok && s.shared {
		_ = notifier.Listen(ctx, topic, s.hurry) // it ends with ctx, or with the store
	}
}

// reload reads the keys of the store, and makes one if that is due.
func (s *Service) reload(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	if _, due := s.due(s.ring.Load()); !due {
		return nil
	}
	return s.turn(ctx, s.due)
}

func (s *Service) load(ctx context.Context) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	var keys *ring
	err := s.meta.View(ctx, func(tx storage.Tx) (err error) {
		keys, err = s.read(tx)
		return err
	})
	if err != nil {
		return err
	}
	s.ring.Store(keys)
	return nil
}

// due says whether it is time to make a key, and from when on it signs: at once if
// there is none.
func (s *Service) due(keys *ring) (time.Time, bool) {
	now, last, ahead := s.now(), keys.last(), min(lead, s.o.Rotate/4)
	if last == nil {
		return now, true
	}
	at := last.created.Add(s.o.Rotate)
	if now.Before(at.Add(-ahead)) {
		return time.Time{}, false
	}
	if soon := now.Add(ahead); at.Before(soon) {
		at = soon
	}
	return at, true
}

// sweep removes refresh tokens that have expired and keys that nothing depends on.
func (s *Service) sweep(ctx context.Context) error {
	_, err := s.forget(ctx, func(row *storage.RefreshToken) bool { return !s.now().Before(row.Expires) })
	if err != nil {
		return fmt.Errorf("refresh tokens: %w", err)
	}
	var old []*key
	for _, k := range s.ring.Load().keys {
		if k.outlived(s.now()) { // and nothing makes it young again
			old = append(old, k)
		}
	}
	if len(old) == 0 {
		return nil
	}
	err = s.meta.Update(ctx, func(tx storage.Tx) error {
		for _, k := range old {
			if err := storage.Signers.Delete(tx, storage.Key(k.id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	return nil
}
