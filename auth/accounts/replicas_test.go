package accounts_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func openPostgres(t *testing.T, dsn string) storage.Meta {
	t.Helper()
	meta, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
	must(t, "open", err)
	t.Cleanup(func() { must(t, "close", meta.Close()) })
	return meta
}

// within waits for something that happens in another replica.
func within(t *testing.T, what string, so func() bool) {
	t.Helper()
	begin := time.Now()
	for !so() {
		if after := time.Since(begin); after > 5*time.Second { // a second, and a busy machine
			t.Fatalf("%s: not after %v", what, after)
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("%s after %v", what, time.Since(begin))
}

// TestPostgres has what one replica changes hold on two others, in a database.
func TestPostgres(t *testing.T) {
	dsn := postgrestest.Shared(t)
	var stores []*accounts.Store
	for range 3 {
		s := open(t, openPostgres(t, dsn), nil)
		run(t, s)
		stores = append(stores, s)
	}
	a, others := stores[0], stores[1:]
	each := func(what string, so func(*accounts.Store) bool) {
		t.Helper()
		for _, s := range others {
			within(t, what, func() bool { return so(s) })
		}
	}
	create(t, a, "bob")
	id, text := createKey(t, a, accounts.NewKey{Account: "bob"})
	bob := login(t, a, "bob", password)
	each("a new account", func(s *accounts.Store) bool { return s.Current(bob) })
	each("a new key", func(s *accounts.Store) bool { return s.KeyCurrent(id) })
	for _, s := range others {
		loginKey(t, s, "bob", text)
	}
	must(t, "password", a.SetPassword(t.Context(), "bob", "another password"))
	each("another password", func(s *accounts.Store) bool { return !s.Current(bob) })
	again := login(t, others[0], "bob", "another password")
	if !others[0].Current(again) {
		t.Error("who has just signed in is not current")
	}
	_, err := a.RevokeKey(t.Context(), id)
	must(t, "revoke", err)
	each("a revoked key", func(s *accounts.Store) bool { return !s.KeyCurrent(id) })
	_, err = a.Update(t.Context(), "bob", disable)
	must(t, "disable", err)
	each("a disabled account", func(s *accounts.Store) bool { return !s.Current(again) })
	must(t, "remove", a.Remove(t.Context(), "bob"))
	each("a removed account", func(s *accounts.Store) bool { return !s.Knows("bob") })
}

// TestManyChange has three replicas change accounts at the same time: in the end all
// know the same.
func TestManyChange(t *testing.T) {
	dsn := postgrestest.Shared(t)
	var stores []*accounts.Store
	for range 3 {
		s := open(t, openPostgres(t, dsn), nil)
		run(t, s)
		stores = append(stores, s)
	}
	const each = 15
	var all sync.WaitGroup
	for i, s := range stores {
		all.Go(func() {
			for j := range each {
				name := fmt.Sprintf("u%d-%d", i, j)
				create(t, s, name)
				if j%3 == 0 {
					must(t, "remove", s.Remove(t.Context(), name))
				}
			}
		})
	}
	all.Wait()
	for _, s := range stores {
		must(t, "look", s.Look(t.Context()))
		for i := range stores {
			for j := range each {
				if name := fmt.Sprintf("u%d-%d", i, j); s.Knows(name) != (j%3 != 0) {
					t.Errorf("%s: known: %v", name, s.Knows(name))
				}
			}
		}
	}
}

// TestLook has somebody be current who was made on another replica just now.
func TestLook(t *testing.T) {
	meta := mem.NewMeta()
	one, two := open(t, meta, nil), open(t, meta, nil)
	for i := range 3 {
		id, _ := createKey(t, one, accounts.NewKey{Account: "eve", Source: "ldap"})
		if two.KeyCurrent(id) {
			t.Fatal("known without a look")
		}
		must(t, "look", two.Look(t.Context()))
		if !two.KeyCurrent(id) {
			t.Errorf("key %d is not known after a look", i)
		}
	}
}

// TestFollowsWhatChanged reads what has changed and not all there is; but all if it has
// missed more than is written down.
func TestFollowsWhatChanged(t *testing.T) {
	meta := mem.NewMeta()
	w := &watched{Meta: meta}
	one, two := open(t, meta, nil), open(t, w, nil)
	create(t, one, "bob")
	before := w.scans.Load()
	must(t, "look", two.Look(t.Context()))
	if n := w.scans.Load() - before; n != 1 {
		t.Errorf("%d scans for one change, want that of the changes", n)
	}
	var last string
	for i := range 1100 {
		id, _ := createKey(t, one, accounts.NewKey{Account: fmt.Sprint("n", i), Source: "ldap"})
		if i%2 == 0 {
			last = id
			continue
		}
		_, err := one.RevokeKey(t.Context(), id)
		must(t, "revoke", err)
	}
	must(t, "look", two.Look(t.Context()))
	keys, err := two.Keys(t.Context(), "")
	if err != nil || len(keys) != 550 || !two.KeyCurrent(last) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	for _, k := range keys {
		if !two.KeyCurrent(k.ID) {
			t.Errorf("%s is not known", k.ID)
		}
	}
	rows := 0
	must(t, "count", meta.View(t.Context(), func(tx storage.Tx) error {
		for _, err := range storage.AccountChanges.Scan(tx, nil, nil) {
			if rows++; err != nil {
				return err
			}
		}
		return nil
	}))
	if rows > 1000 {
		t.Errorf("%d changes are written down", rows)
	}
}

// TestStale has a replica that is cut off from the store say so, and no other.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{Meta: mem.NewMeta()}
		s := open(t, w, nil)
		run(t, s)
		after(time.Hour)
		if s.Stale() {
			t.Error("stale while the store is there")
		}
		w.failing.Store(true)
		after(accounts.StaleAfter - time.Second)
		if s.Stale() {
			t.Error("stale at once")
		}
		after(2 * time.Second)
		if !s.Stale() {
			t.Error("not stale after long")
		}
		w.failing.Store(false)
		after(time.Second)
		if s.Stale() {
			t.Error("stale for ever")
		}
		alone := open(t, openBolt(t), nil)
		after(time.Hour)
		if alone.Stale() {
			t.Error("stale where nobody else changes anything")
		}
	})
}

// TestUsesOfReplicas writes once in a while that a key was used, however many replicas
// it is used at.
func TestUsesOfReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta := mem.NewMeta()
		first := open(t, meta, nil)
		create(t, first, "bob")
		id, text := createKey(t, first, accounts.NewKey{Account: "bob"})
		var stores []*accounts.Store
		var stops []func()
		for range 3 {
			s := open(t, meta, nil)
			stores, stops = append(stores, s), append(stops, run(t, s))
			after(13 * time.Second) // they do not tick together
		}
		written := map[time.Time]bool{}
		used := func() (at time.Time) {
			must(t, "view", meta.View(t.Context(), func(tx storage.Tx) error {
				row, err := storage.APIKeys.Get(tx, storage.Key(id))
				at = row.Used
				return err
			}))
			return at
		}
		const minutes = 30
		for range minutes * 60 {
			for _, s := range stores {
				loginKey(t, s, "bob", text)
			}
			after(time.Second)
			written[used()] = true
		}
		if n := len(written); n < minutes/2 || n > minutes+5 {
			t.Errorf("%d writes in %d minutes", n, minutes)
		}
		last := time.Now()
		loginKey(t, stores[1], "bob", text)
		for _, stop := range stops {
			stop()
		}
		if at := used(); at.Before(last.Truncate(time.Second)) {
			t.Errorf("in the end it was used at %v, want %v", at, last)
		}
	})
}
