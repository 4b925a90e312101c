package accounts

import (
	"errors"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

// getAccount returns a row, or auth.ErrUnknown.
func getAccount(tx storage.Tx, name string) (storage.Account, error) {
	row, err := storage.Accounts.Get(tx, storage.Key(name))
	if errors.Is(err, storage.ErrNotFound) {
		err = auth.ErrUnknown
	}
	return row, err
}

// getKey returns a row, or an auth.ErrUnknown.
func getKey(tx storage.Tx, id string) (storage.APIKey, error) {
	row, err := storage.APIKeys.Get(tx, storage.Key(id))
	if errors.Is(err, storage.ErrNotFound) {
		err = errNoKey
	}
	return row, err
}

// present returns what may be shown of an account.
func present(name string, row storage.Account) Account {
	return Account{Name: name, Robot: row.Robot, Groups: row.Groups, Created: row.Created.UTC(), Disabled: row.Disabled}
}

// describe returns what may be shown of a key.
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
	return removeWhere(tx, storage.APIKeys, func(row storage.APIKey) bool {
		return row.Account == name && row.Source == Source
	})
}

// removeWhere removes the rows that match, and returns their keys.
func removeWhere[V any](tx storage.Tx, t storage.Table[V], match func(V) bool) (gone []string, err error) {
	for e, err := range t.Scan(tx, nil, nil) {
		if err != nil {
			return nil, err
		}
		if match(e.Value) {
			gone = append(gone, string(e.Key))
		}
	}
	for _, k := range gone {
		if err := t.Delete(tx, []byte(k)); err != nil {
			return nil, err
		}
	}
	return gone, nil
}
