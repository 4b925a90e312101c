package accounts

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

// Login implements auth.Source for accounts with a password.
func (s *Store) Login(ctx context.Context, name, password string) (*auth.Identity, error) {
	if !wellFormed(name) {
		return nil, auth.ErrUnknown
	}
	var row storage.Account
	err := s.view(ctx, func(tx storage.Tx) (err error) {
		row, err = getAccount(tx, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !s.proves(row, password) {
		return nil, auth.ErrWrong
	}
	return &auth.Identity{Account: name, Groups: row.Groups, Source: Source, Epoch: epochText(row.Epoch)}, nil
}

// proves says whether the password is the account's and may be used. It takes
// its time whatever the reason is why not.
func (s *Store) proves(row storage.Account, password string) bool {
	hash, ok := row.Password, sound(password) && !row.Disabled && !row.Robot
	if len(hash) == 0 {
		hash, ok = s.dummy, false
	}
	same := bcrypt.CompareHashAndPassword(hash, []byte(password[:min(len(password), maxPassword)])) == nil
	return same && ok
}

// Current implements auth.Source, also for identities of other sources that were
// signed in by a key: it says whether the key still works.
func (s *Store) Current(id *auth.Identity) bool { return s.known.current(id, s.now()) }

// Knows says, from memory, whether there is an account of that name.
func (s *Store) Knows(name string) bool { return s.known.knows(name) }

// KeyCurrent says, from memory, whether there is such a key that can be signed in
// with.
func (s *Store) KeyCurrent(id string) bool { return s.known.keyCurrent(id, s.now()) }

// Refresh implements auth.Refresher, also for identities of other sources that
// were signed in by a key. It fails with auth.ErrWrong if the identity is no
// longer current.
func (s *Store) Refresh(ctx context.Context, id *auth.Identity) (*auth.Identity, error) {
	if id.Key == "" && (id.Source != Source || !wellFormed(id.Account)) {
		return nil, auth.ErrUnknown
	}
	fresh := *id
	err := s.view(ctx, func(tx storage.Tx) error {
		if id.Key != "" {
			return s.refreshKey(tx, id, &fresh)
		}
		row, err := getAccount(tx, id.Account)
		if err != nil {
			return err
		}
		if row.Disabled || epochText(row.Epoch) != id.Epoch {
			return auth.ErrWrong
		}
		fresh.Groups = row.Groups
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &fresh, nil
}

func (s *Store) refreshKey(tx storage.Tx, id, fresh *auth.Identity) error {
	row, err := getKey(tx, id.Key)
	if err != nil {
		return err
	}
	if row.Account != id.Account || row.Source != id.Source {
		return auth.ErrWrong
	}
	found, err := s.identify(tx, id.Key, row)
	if err != nil {
		return err
	}
	fresh.Groups = found.Groups
	if fresh.Grants == nil {
		fresh.Grants = found.Grants
	}
	return nil
}

// view runs fn on a snapshot, and follows in memory what others have changed up
// to it, so that what was found is current.
func (s *Store) view(ctx context.Context, fn func(storage.Tx) error) error {
	var at int64
	err := s.meta.View(ctx, func(tx storage.Tx) (err error) {
		if at, err = storage.Total(tx, changes); err != nil {
			return err
		}
		return fn(tx)
	})
	if err == nil {
		err = s.catchUp(ctx, at)
	}
	return s.failure(err)
}

// failure says what failed, if it is the store that did.
func (*Store) failure(err error) error {
	if err == nil || errors.Is(err, auth.ErrUnknown) || errors.Is(err, auth.ErrWrong) {
		return err
	}
	return fmt.Errorf("look up an account: %w", err)
}

// epochText is an epoch as an identity has it.
func epochText(n int64) string { return strconv.FormatInt(n, 36) }
