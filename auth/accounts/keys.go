package accounts

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

const (
	keyPrefix   = "berth_"
	idBytes     = 10 // of randomness
	secretBytes = 20
	// maxKeys is about how many keys an account may have that have not expired, so
	// that nobody fills the memory.
	maxKeys = 1000
	// ownerAny is what may stand for the name of a key's owner.
	ownerAny = "token"
)

var keyText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newText returns n random bytes as text.
func newText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return keyText.EncodeToString(b)
}

// IsKey says whether s has the form of an API key, berth_<id>_<secret>.
func IsKey(s string) bool {
	_, _, ok := splitKey(s)
	return ok
}

func splitKey(s string) (id, secret string, ok bool) {
	id, secret, ok = strings.Cut(strings.TrimPrefix(s, keyPrefix), "_")
	return id, secret, ok && strings.HasPrefix(s, keyPrefix) && isText(id, idBytes) && isText(secret, secretBytes)
}

// isText says whether s may be of newText(n).
func isText(s string, n int) bool {
	return len(s) == keyText.EncodedLen(n) &&
		!strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '2' || r > '7') })
}

// LoginKey returns who signs in with an API key. The account is its owner's
// name, or empty or "token" for whoever that is. It fails with auth.ErrUnknown if
// there is no such key, and auth.ErrWrong if its secret or its owner is another,
// it has expired, or the account is disabled.
func (s *Store) LoginKey(ctx context.Context, name, text string) (*auth.Identity, error) {
	id, secret, ok := splitKey(text)
	if !ok {
		return nil, errNoKey
	}
	hash := sha256.Sum256([]byte(secret))
	var found *auth.Identity
	err := s.view(ctx, func(tx storage.Tx) error {
		row, err := getKey(tx, id)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(hash[:], row.Hash) != 1 || name != "" && name != ownerAny && name != row.Account {
			return auth.ErrWrong
		}
		found, err = s.identify(tx, id, row)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.used.note(id, s.now())
	return found, nil
}

// identify returns who a key makes of its bearer, if it works.
func (s *Store) identify(tx storage.Tx, id string, row storage.APIKey) (*auth.Identity, error) {
	if knownKey(row).expired(s.now()) {
		return nil, auth.ErrWrong
	}
	groups := row.Groups
	if row.Source == Source {
		owner, err := getAccount(tx, row.Account)
		if err == nil && owner.Disabled {
			err = auth.ErrWrong
		}
		if err != nil {
			return nil, err
		}
		groups = owner.Groups
	}
	return &auth.Identity{
		Account: row.Account, Groups: groups, Source: row.Source, Key: id, Grants: grants(row.Grants),
	}, nil
}

// CreateKey makes an API key and returns it with its text, which is not kept. It
// fails with ErrKey, ErrName for a group, and, for an account of this store,
// auth.ErrUnknown if there is none.
func (s *Store) CreateKey(ctx context.Context, k NewKey) (Key, string, error) {
	if k.Source == "" {
		k.Source = Source
	}
	now := s.now()
	if err := k.check(now); err != nil {
		return Key{}, "", err
	}
	groups, err := checkGroups(k.Groups)
	if err != nil {
		return Key{}, "", err
	}
	if k.Source == Source {
		groups = nil // the account's own, at each login
	}
	if s.known.usable(k.Account, now) >= maxKeys {
		return Key{}, "", &problem{ErrKey, "bad API key: its account has 1000 already"}
	}
	id, secret := newText(idBytes), newText(secretBytes)
	hash := sha256.Sum256([]byte(secret))
	row := storage.APIKey{
		Account: k.Account, Source: k.Source, Groups: groups, Hash: hash[:],
		Grants: grantRows(k.Grants), Created: now, Expires: k.Expires, Note: k.Note,
	}
	err = s.update(ctx, func(tx storage.Tx, _ int64) (delta, error) {
		if err := mayOwn(tx, k); err != nil {
			return delta{}, err
		}
		return delta{keys: map[string]key{id: knownKey(row)}}, storage.APIKeys.Put(tx, storage.Key(id), row)
	})
	if err != nil {
		return Key{}, "", err
	}
	return describe(id, row), keyPrefix + id + "_" + secret, nil
}

// mayOwn says why the account cannot have the key.
func mayOwn(tx storage.Tx, k NewKey) error {
	if k.Source != Source {
		return nil
	}
	owner, err := getAccount(tx, k.Account)
	if err == nil && owner.Disabled {
		err = &problem{ErrKey, "bad API key: its account is disabled"}
	}
	return err
}

// Keys lists the keys of an account, or of all if it is empty, oldest first.
func (s *Store) Keys(ctx context.Context, name string) ([]Key, error) {
	// The ids of an account's keys are known, all rows need not be read for them.
	if err := s.view(ctx, func(storage.Tx) error { return nil }); err != nil {
		return nil, err
	}
	var keys []Key
	err := s.meta.View(ctx, func(tx storage.Tx) (err error) {
		if name == "" {
			keys, err = allKeys(tx)
		} else {
			keys, err = someKeys(tx, s.known.keysOf(name))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list API keys: %w", err)
	}
	s.used.show(keys)
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return keys, nil
}

func allKeys(tx storage.Tx) (keys []Key, err error) {
	for e, err := range storage.APIKeys.Scan(tx, nil, nil) {
		if err != nil {
			return nil, err
		}
		keys = append(keys, describe(string(e.Key), e.Value))
	}
	return keys, nil
}

func someKeys(tx storage.Tx, ids []string) (keys []Key, err error) {
	for _, id := range ids {
		row, err := getKey(tx, id)
		if errors.Is(err, errNoKey) {
			continue // revoked since
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, describe(id, row))
	}
	return keys, nil
}

// RevokeKey removes a key and returns what it was. It fails with auth.ErrUnknown
// if there is none.
func (s *Store) RevokeKey(ctx context.Context, id string) (Key, error) {
	if !isText(id, idBytes) {
		return Key{}, errNoKey
	}
	var row storage.APIKey
	err := s.update(ctx, func(tx storage.Tx, _ int64) (d delta, err error) {
		if row, err = getKey(tx, id); err != nil {
			return d, err
		}
		return delta{revoked: []string{id}}, storage.APIKeys.Delete(tx, storage.Key(id))
	})
	if err != nil {
		return Key{}, err
	}
	return describe(id, row), nil
}
