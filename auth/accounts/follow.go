package accounts

import (
	"context"
	"errors"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

const (
	// topic is what a process that has changed something notifies the others of.
	topic = "accounts"
	// followEvery is how often it is asked what other replicas have changed.
	followEvery = time.Second / 2
	// lookEvery is how often it is asked at most for those who cannot wait for that.
	lookEvery = time.Second / 10
	// rereadTime is how long a change waits for what others have changed.
	rereadTime = 10 * time.Second
	// tellTime is how long a change takes to wake up the others.
	tellTime = time.Second
	// keptChanges is how many changes are written down for those who have not seen them.
	keptChanges = 1000
	// maxFollowed is how many accounts and keys are read one by one rather than all.
	maxFollowed = 200
	// StaleAfter is after what time a revocation holds also where the store cannot be
	// reached: see Stale.
	StaleAfter = 15 * time.Second
)

// update makes a change of the store, with its number, and follows it in memory.
func (s *Store) update(ctx context.Context, fn func(tx storage.Tx, number int64) (delta, error)) error {
	err := s.change(ctx, fn)
	if err == nil {
		s.tell(ctx)
	}
	return err
}

func (s *Store) change(ctx context.Context, fn func(tx storage.Tx, number int64) (delta, error)) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	var number int64
	var d delta
	err := s.meta.Update(ctx, func(tx storage.Tx) (err error) {
		if number, err = storage.Count(tx, changes, 1); err != nil {
			return err
		}
		if d, err = fn(tx, number); err != nil || !s.shared {
			return err
		}
		return d.note(tx, number)
	})
	if err == nil && s.known.apply(number, d) {
		return nil
	}
	// Another replica has changed something too; or the change failed in a way
	// that leaves it in force, as when the connection is lost in a commit. What
	// cannot be read now is left to Run.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rereadTime)
	defer cancel()
	if err := s.rereadLocked(ctx); err != nil {
		s.log.WarnContext(ctx, "cannot read the accounts anew", "error", err)
	}
	return err
}

// tell wakes up the other replicas. If it cannot, they look by themselves.
func (s *Store) tell(ctx context.Context) {
	notifier, ok := s.meta.(storage.Notifier)
	if !ok || !s.shared {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTime)
	defer cancel()
	if err := notifier.Notify(ctx, topic); err != nil {
		s.log.DebugContext(ctx, "other servers hear of a change of accounts a little later", "error", err)
	}
}

// Look follows what other replicas have changed up to now. Callers share what it costs:
// it may take a tenth of a second.
func (s *Store) Look(ctx context.Context) error {
	if !s.shared {
		return nil
	}
	return s.looks.Join(ctx)
}

// Stale says that other replicas may have revoked something StaleAfter ago which is
// still current here, because the store cannot be reached. It waits for nothing.
func (s *Store) Stale() bool { return s.shared && s.now().Sub(*s.asOf.Load()) > StaleAfter }

// catchUp follows what others have changed, up to the number at.
func (s *Store) catchUp(ctx context.Context, at int64) error {
	if s.known.seen() >= at {
		return nil
	}
	return s.reread(ctx)
}

// reread follows what others have changed.
func (s *Store) reread(ctx context.Context) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	return s.rereadLocked(ctx)
}

func (s *Store) rereadLocked(ctx context.Context) error {
	k, d := known{}, delta{}
	seen, first, begin := s.known.seen(), s.known.accounts == nil, s.now()
	err := s.meta.View(ctx, func(tx storage.Tx) (err error) {
		k, d = known{}, delta{}
		if k.at, err = storage.Total(tx, changes); err != nil || k.at == seen && !first {
			return err
		}
		if !first && s.shared {
			var whole bool
			if d, whole, err = since(tx, seen, k.at); err != nil || whole {
				return err
			}
		}
		return k.read(tx)
	})
	if err != nil {
		return err
	}
	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	s.asOf.Store(&begin)
	s.known.at = k.at
	if k.accounts != nil {
		s.known.accounts, s.known.keys = k.accounts, k.keys
		return nil
	}
	s.known.put(d)
	return nil
}

// since returns what the changes behind the number seen, up to at, have made of the
// store. whole is false if that is not known, or if it is a lot.
func since(tx storage.Tx, seen, at int64) (d delta, whole bool, err error) {
	if at < seen || at-seen > maxFollowed {
		return d, false, nil
	}
	names, ids := map[string]bool{}, map[string]bool{}
	next := seen + 1
	for e, err := range storage.AccountChanges.Scan(tx, nil, storage.Key(storage.NumberPart(seen))) {
		if err != nil {
			return d, false, err
		}
		number, err := storage.CutNumber(e.Key)
		if err != nil {
			return d, false, err
		}
		if number != next {
			return d, false, nil
		}
		next++
		for _, name := range e.Value.Accounts {
			names[name] = true
		}
		for _, id := range e.Value.Keys {
			ids[id] = true
		}
	}
	if next != at+1 || len(names)+len(ids) > maxFollowed {
		return d, false, nil
	}
	d, err = look(tx, names, ids)
	return d, err == nil, err
}

// look reads accounts and keys that have changed.
func look(tx storage.Tx, names, ids map[string]bool) (delta, error) {
	d := delta{accounts: map[string]account{}, keys: map[string]key{}}
	for name := range names {
		row, err := getAccount(tx, name)
		switch {
		case err == nil:
			d.accounts[name] = knownAccount(row)
		case errors.Is(err, auth.ErrUnknown):
			d.gone = append(d.gone, name)
		default:
			return d, err
		}
	}
	for id := range ids {
		row, err := getKey(tx, id)
		switch {
		case err == nil:
			d.keys[id] = knownKey(row)
		case errors.Is(err, auth.ErrUnknown):
			d.revoked = append(d.revoked, id)
		default:
			return d, err
		}
	}
	return d, nil
}
