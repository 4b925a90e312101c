package accounts

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/storage"
)

// changes is the name of the counter that grows with every change of an account
// or a key but that of its last use. It is how a process learns that another has
// changed something, and where epochs come from: no two passwords have the same,
// even if an account was removed in between.
const changes = "accounts"

// known is what must be known without waiting: which accounts and keys there
// are. With 100,000 keys it holds some 10 MB.
type known struct {
	mu       sync.RWMutex
	at       int64 // changes that were seen
	accounts map[string]account
	keys     map[string]key
}

// account is what is known of a storage.Account.
type account struct {
	epoch    int64
	disabled bool
}

// key is what is known of a storage.APIKey.
type key struct {
	account, source string
	expires         time.Time // zero for never
}

func (k key) expired(now time.Time) bool { return !k.expires.IsZero() && !k.expires.After(now) }

func knownAccount(row storage.Account) account { return account{row.Epoch, row.Disabled} }

func knownKey(row storage.APIKey) key { return key{row.Account, row.Source, row.Expires} }

// delta is what a change makes of what is known: rows that are new or changed,
// and the names of those that are gone.
type delta struct {
	accounts map[string]account
	keys     map[string]key
	gone     []string // accounts
	revoked  []string // keys
}

// note writes down what the change of a number has changed, for other processes, and
// forgets one that was long ago.
func (d *delta) note(tx storage.Tx, number int64) error {
	row := storage.AccountChange{
		Accounts: slices.Concat(slices.Collect(maps.Keys(d.accounts)), d.gone),
		Keys:     slices.Concat(slices.Collect(maps.Keys(d.keys)), d.revoked),
	}
	if old := number - keptChanges; old > 0 {
		if err := storage.AccountChanges.Delete(tx, storage.Key(storage.NumberPart(old))); err != nil {
			return err
		}
	}
	return storage.AccountChanges.Put(tx, storage.Key(storage.NumberPart(number)), row)
}

// apply follows the change number at. It returns false if others before it were
// not seen yet.
func (k *known) apply(at int64, d delta) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := at == k.at+1
	if next {
		k.at = at
	}
	k.put(d)
	return next
}

// put makes what is known follow a change. k.mu is held.
func (k *known) put(d delta) {
	maps.Copy(k.accounts, d.accounts)
	maps.Copy(k.keys, d.keys)
	for _, name := range d.gone {
		delete(k.accounts, name)
	}
	for _, id := range d.revoked {
		delete(k.keys, id)
	}
}

func (k *known) seen() int64 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.at
}

// current is Current for an identity, in memory.
func (k *known) current(id *auth.Identity, now time.Time) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if id.Key != "" {
		v, ok := k.keys[id.Key]
		return ok && v.account == id.Account && v.source == id.Source && k.works(v, now)
	}
	a, ok := k.accounts[id.Account]
	return ok && id.Source == Source && !a.disabled && epochText(a.epoch) == id.Epoch
}

func (k *known) knows(name string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, ok := k.accounts[name]
	return ok
}

func (k *known) keyCurrent(id string, now time.Time) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	v, ok := k.keys[id]
	return ok && k.works(v, now)
}

// works says whether a key can be signed in with. k.mu is held.
func (k *known) works(v key, now time.Time) bool {
	if v.source == Source {
		if a, ok := k.accounts[v.account]; !ok || a.disabled {
			return false
		}
	}
	return !v.expired(now)
}

// expired lists the keys that have expired before t.
func (k *known) expired(t time.Time) (ids []string) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for id, v := range k.keys {
		if v.expired(t) {
			ids = append(ids, id)
		}
	}
	return ids
}

// keysOf lists the keys of an account, whoever vouches for it.
func (k *known) keysOf(name string) (ids []string) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for id, v := range k.keys {
		if v.account == name {
			ids = append(ids, id)
		}
	}
	return ids
}

// usable counts the keys of an account that have not expired.
func (k *known) usable(name string, now time.Time) (n int) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, v := range k.keys {
		if v.account == name && !v.expired(now) {
			n++
		}
	}
	return n
}

// read reads all accounts and keys.
func (k *known) read(tx storage.Tx) error {
	k.accounts, k.keys = map[string]account{}, map[string]key{}
	names := map[string]string{} // so that an account's keys share its name
	share := func(s string) string {
		if t, ok := names[s]; ok {
			return t
		}
		names[s] = s
		return s
	}
	for e, err := range storage.Accounts.Scan(tx, nil, nil) {
		if err != nil {
			return err
		}
		k.accounts[share(string(e.Key))] = knownAccount(e.Value)
	}
	for e, err := range storage.APIKeys.Scan(tx, nil, nil) {
		if err != nil {
			return err
		}
		v := knownKey(e.Value)
		v.account, v.source = share(v.account), share(v.source)
		k.keys[string(e.Key)] = v
	}
	return nil
}
