package accounts

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"slices"
	"strings"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

const (
	keyPrefix   = "berth_"
	idBytes     = 10 // of randomness
	secretBytes = 20
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

// getKey returns a row, or an auth.ErrUnknown.
func getKey(tx storage.Tx, id string) (storage.APIKey, error) {
	row, err := storage.APIKeys.Get(tx, storage.Key(id))
	if errors.Is(err, storage.ErrNotFound) {
		err = errNoKey
	}
	return row, err
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
	var keys []Key
	err := s.meta.View(ctx, func(tx storage.Tx) error {
		keys = nil
		for e, err := range storage.APIKeys.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			if name == "" || e.Value.Account == name {
				keys = append(keys, describe(string(e.Key), e.Value))
			}
		}
		return nil
	})
	s.used.show(keys)
	slices.SortFunc(keys, func(a, b Key) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return keys, err
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

func describe(id string, row storage.APIKey) Key {
	return Key{
		ID: id, Account: row.Account, Source: row.Source, Groups: row.Groups, Grants: grants(row.Grants),
		Created: row.Created.UTC(), Expires: row.Expires.UTC(), Used: row.Used.UTC(), Note: row.Note,
	}
}

func grants(rows []storage.KeyGrant) (gs []auth.Grant) {
	for _, r := range rows {
		gs = append(gs, auth.Grant{Repos: r.Repos, Actions: auth.Action(r.Actions)})
	}
	return gs
}

func grantRows(gs []auth.Grant) (rows []storage.KeyGrant) {
	for _, g := range gs {
		rows = append(rows, storage.KeyGrant{Repos: g.Repos, Actions: uint8(g.Actions)})
	}
	return rows
}

// removeKeys removes the keys that belong to an account of this store.
func removeKeys(tx storage.Tx, name string) (ids []string, err error) {
	return removeWhere(tx, storage.APIKeys, func(_ []byte, row storage.APIKey) bool {
		return row.Account == name && row.Source == Source
	})
}

// removeWhere removes the rows that match, and returns their keys.
func removeWhere[V any](tx storage.Tx, t storage.Table[V], match func(key []byte, row V) bool) (gone []string, err error) {
	for e, err := range t.Scan(tx, nil, nil) {
		if err != nil {
			return nil, err
		}
		if match(e.Key, e.Value) {
			gone = append(gone, string(bytes.Clone(e.Key)))
		}
	}
	for _, k := range gone {
		if err := t.Delete(tx, []byte(k)); err != nil {
			return nil, err
		}
	}
	return gone, nil
}
