package accounts

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

// Create makes an account of a's name, groups and kind; Created is now. A robot
// has no password. It fails with ErrName, ErrPassword or ErrExists.
func (s *Store) Create(ctx context.Context, a Account, password string) error {
	if err := checkName(a.Name); err != nil {
		return err
	}
	groups, err := checkGroups(a.Groups)
	if err != nil {
		return err
	}
	row := storage.Account{Robot: a.Robot, Groups: groups, Created: s.now(), Disabled: a.Disabled}
	if !a.Robot {
		row.Password, err = s.hash(password)
	} else if password != "" {
		err = errRobot
	}
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx storage.Tx, number int64) (delta, error) {
		there, err := storage.Accounts.Has(tx, storage.Key(a.Name))
		if err == nil && there {
			err = ErrExists
		}
		if err != nil {
			return delta{}, err
		}
		row := row
		row.Epoch = number
		return putAccount(tx, a.Name, row)
	})
}

var errRobot = &problem{ErrPassword, "bad password: a robot has none, it signs in with API keys"}

func (s *Store) hash(password string) ([]byte, error) {
	if err := checkPassword(password); err != nil {
		return nil, err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), s.cost)
	if err != nil {
		return nil, fmt.Errorf("hash a password: %w", err)
	}
	return hash, nil
}

func putAccount(tx storage.Tx, name string, row storage.Account) (delta, error) {
	return delta{accounts: map[string]account{name: knownAccount(row)}},
		storage.Accounts.Put(tx, storage.Key(name), row)
}

// SetPassword gives an account another password: who has signed in by the last
// one is no longer current. It fails with ErrPassword or auth.ErrUnknown.
func (s *Store) SetPassword(ctx context.Context, name, password string) error {
	if !wellFormed(name) {
		return auth.ErrUnknown
	}
	hash, err := s.hash(password)
	if err != nil {
		return err
	}
	return s.update(ctx, func(tx storage.Tx, number int64) (delta, error) {
		row, err := getAccount(tx, name)
		if err == nil && row.Robot {
			err = errRobot
		}
		if err != nil {
			return delta{}, err
		}
		row.Password, row.Epoch = hash, number
		return putAccount(tx, name, row)
	})
}

// errFixed is the error of a programmer.
var errFixed = errors.New("an account's name, kind and time of creation cannot be changed")

// Update changes an account's groups, or whether it is disabled, and returns what
// it is then. change may be called more than once, each time with the account as
// it is; an error of it is returned and changes nothing. Update fails with ErrName
// for a group, or auth.ErrUnknown.
func (s *Store) Update(ctx context.Context, name string, change func(*Account) error) (Account, error) {
	if !wellFormed(name) {
		return Account{}, auth.ErrUnknown
	}
	var changed Account
	err := s.update(ctx, func(tx storage.Tx, _ int64) (d delta, err error) {
		row, err := getAccount(tx, name)
		if err != nil {
			return d, err
		}
		was := present(name, row)
		changed = was
		changed.Groups = slices.Clone(was.Groups)
		if err := change(&changed); err != nil {
			return d, err
		}
		if changed.Name != was.Name || changed.Robot != was.Robot || !changed.Created.Equal(was.Created) {
			return d, errFixed
		}
		if changed.Groups, err = checkGroups(changed.Groups); err != nil {
			return d, err
		}
		row.Groups, row.Disabled = changed.Groups, changed.Disabled
		return putAccount(tx, name, row)
	})
	if err != nil {
		return Account{}, err
	}
	return changed, nil
}

// Remove removes an account, its keys, and the refresh tokens that it has got. It
// fails with auth.ErrUnknown.
func (s *Store) Remove(ctx context.Context, name string) error {
	if !wellFormed(name) {
		return auth.ErrUnknown
	}
	return s.update(ctx, func(tx storage.Tx, _ int64) (d delta, err error) {
		if _, err = getAccount(tx, name); err != nil {
			return d, err
		}
		_, err = removeWhere(tx, storage.RefreshTokens, func(row storage.RefreshToken) bool {
			return row.Account == name && row.Source == Source
		})
		if err != nil {
			return d, err
		}
		if d.revoked, err = removeKeys(tx, name); err != nil {
			return d, err
		}
		d.gone = []string{name}
		return d, storage.Accounts.Delete(tx, storage.Key(name))
	})
}

// Get returns an account, or auth.ErrUnknown.
func (s *Store) Get(ctx context.Context, name string) (Account, error) {
	if !wellFormed(name) {
		return Account{}, auth.ErrUnknown
	}
	var a Account
	err := s.meta.View(ctx, func(tx storage.Tx) error {
		row, err := getAccount(tx, name)
		a = present(name, row)
		return err
	})
	if err != nil {
		return Account{}, err
	}
	return a, nil
}

// List lists the accounts by name.
func (s *Store) List(ctx context.Context) ([]Account, error) {
	var list []Account
	err := s.meta.View(ctx, func(tx storage.Tx) error {
		list = nil
		for e, err := range storage.Accounts.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			list = append(list, present(string(e.Key), e.Value))
		}
		return nil
	})
	return list, err
}
