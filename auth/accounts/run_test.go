package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// watched counts the transactions of a store, and makes them fail.
type watched struct {
	storage.Meta
	views, updates, scans atomic.Int64
	failing               atomic.Bool // every transaction fails
	lost                  atomic.Bool // updates fail after they were written
	written               func()      // if not nil, called when an update was written
}

// scanned counts the scans of a transaction.
type scanned struct {
	storage.Tx
	n *atomic.Int64
}

func (s scanned) Scan(table string, prefix, after []byte) iter.Seq2[storage.Row, error] {
	s.n.Add(1)
	return s.Tx.Scan(table, prefix, after)
}

var errBroken = errors.New("the store is broken")

func (w *watched) View(ctx context.Context, fn func(storage.Tx) error) error {
	w.views.Add(1)
	if w.failing.Load() {
		return errBroken
	}
	return w.Meta.View(ctx, func(tx storage.Tx) error { return fn(scanned{tx, &w.scans}) })
}

func (w *watched) Update(ctx context.Context, fn func(storage.Tx) error) error {
	w.updates.Add(1)
	if w.failing.Load() {
		return errBroken
	}
	err := w.Meta.Update(ctx, fn)
	if w.written != nil {
		w.written()
	}
	if err == nil && w.lost.Load() {
		return errBroken
	}
	return err
}

// versioned is a watched that is a storage.Versioner.
type versioned struct{ watched }

func (v *versioned) Version() uint64 { return v.Meta.(storage.Versioner).Version() }

// run runs s until stop is called, or the test ends.
func run(t *testing.T, s *accounts.Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// after lets time go by.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// eachBubble is eachStore with a time of its own.
func eachBubble(t *testing.T, test func(t *testing.T, meta storage.Meta)) {
	t.Run("bolt", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, openBolt(t)) }) })
	t.Run("mem", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { test(t, mem.NewMeta()) }) })
}

// What one replica changes is in force in another after some seconds.
func TestReplicas(t *testing.T) {
	eachBubble(t, func(t *testing.T, meta storage.Meta) {
		one, two := open(t, meta, nil), open(t, meta, nil)
		run(t, two)
		create(t, one, "bob")
		create(t, one, "eve")
		keyID, _ := createKey(t, one, accounts.NewKey{Account: "bob"})
		revoked, _ := createKey(t, one, accounts.NewKey{Account: "bob"})
		bob, eve := login(t, one, "bob", password), login(t, one, "eve", password)
		after(5 * time.Second)
		if !two.Current(bob) || !two.Current(eve) || !two.KeyCurrent(keyID) || !two.KeyCurrent(revoked) {
			t.Error("what was created is not current")
		}
		must(t, "remove", one.Remove(t.Context(), "eve"))
		must(t, "password", one.SetPassword(t.Context(), "bob", password))
		_, err := one.RevokeKey(t.Context(), revoked)
		must(t, "revoke", err)
		after(5 * time.Second)
		if two.Current(bob) || two.Current(eve) || two.KeyCurrent(revoked) {
			t.Error("what is gone is current")
		}
		if !two.KeyCurrent(keyID) {
			t.Error("what is there is not current")
		}
		_, err = one.Update(t.Context(), "bob", disable)
		must(t, "disable", err)
		after(5 * time.Second)
		if two.KeyCurrent(keyID) {
			t.Error("a disabled account's key is current")
		}
	})
}

// Who has just been created elsewhere is current as soon as it signs in, and a
// change of one's own does not hide what another has changed before.
func TestReplicaAtOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		one, two := open(t, meta, nil), open(t, meta, nil)
		create(t, one, "bob")
		_, text := createKey(t, one, accounts.NewKey{Account: "bob"})
		loginKey(t, two, "bob", text)
		must(t, "password", one.SetPassword(t.Context(), "bob", "another password"))
		login(t, two, "bob", "another password")

		keyID, _ := createKey(t, one, accounts.NewKey{Account: "bob"})
		create(t, two, "eve")
		if !two.KeyCurrent(keyID) {
			t.Error("does not see what changed before its own change")
		}
		_, err := two.RevokeKey(t.Context(), keyID)
		must(t, "revoke", err)
		if two.KeyCurrent(keyID) {
			t.Error("a revoked key is current")
		}
	})
}

// A change that was written although the store says that it failed, as when the
// connection is lost, is in force at once.
func TestLostAnswer(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		w := &watched{Meta: meta}
		s := open(t, w, nil)
		create(t, s, "bob")
		keyID, _ := createKey(t, s, accounts.NewKey{Account: "bob"})
		id := login(t, s, "bob", password)
		w.lost.Store(true)
		_, err := s.RevokeKey(t.Context(), keyID)
		want(t, "revoke", err, errBroken)
		if s.KeyCurrent(keyID) {
			t.Error("the revoked key is current")
		}
		want(t, "remove", s.Remove(t.Context(), "bob"), errBroken)
		if s.Current(id) {
			t.Error("the removed account is current")
		}
	})
}

// A store that fails changes nothing, is not taken for a wrong password, and is
// followed when it works again.
func TestBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{Meta: mem.NewMeta()}
		s := open(t, w, nil)
		run(t, s)
		create(t, s, "bob")
		keyID, text := createKey(t, s, accounts.NewKey{Account: "bob"})
		id := loginKey(t, s, "bob", text)
		w.failing.Store(true)
		_, err := s.Login(t.Context(), "bob", password)
		want(t, "Login", err, errBroken)
		_, err = s.LoginKey(t.Context(), "bob", text)
		want(t, "LoginKey", err, errBroken)
		want(t, "Remove", s.Remove(t.Context(), "bob"), errBroken)
		after(3 * time.Minute)
		if !s.Current(id) || !s.KeyCurrent(keyID) {
			t.Error("not current while the store fails")
		}
		w.failing.Store(false)
		_, err = open(t, w.Meta, nil).RevokeKey(t.Context(), keyID)
		must(t, "revoke elsewhere", err)
		after(5 * time.Second)
		if s.Current(id) || s.KeyCurrent(keyID) {
			t.Error("does not follow the store when it works again")
		}
		if _, err := accounts.New(t.Context(), &watched{Meta: w.Meta}, accounts.Options{Cost: 4}); err != nil {
			t.Error(err)
		}
		w.failing.Store(true)
		if _, err := accounts.New(t.Context(), w, accounts.Options{Cost: 4}); !errors.Is(err, errBroken) {
			t.Errorf("New: %v", err)
		}
	})
}

// A store that says that nothing has changed is not asked.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &versioned{watched{Meta: openBolt(t)}}
		s := open(t, v, nil)
		create(t, s, "bob")
		run(t, s)
		after(10 * time.Second)
		views := v.views.Load()
		after(time.Hour)
		if n := v.views.Load() - views; n != 0 || v.updates.Load() != 1 {
			t.Errorf("%d views and %d updates of nothing", n, v.updates.Load()-1)
		}
	})
}

// Where that cannot be said, all rows are read only if something has changed.
func TestNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{Meta: mem.NewMeta()}
		s := open(t, w, nil)
		create(t, s, "bob")
		run(t, s)
		w.scans.Store(0)
		after(time.Hour)
		login(t, s, "bob", password)
		if n := w.scans.Load(); n != 0 {
			t.Errorf("%d scans of nothing new", n)
		}
	})
}

// A key that is revoked before the call that makes it has returned is gone: memory
// follows changes in their order.
func TestOrder(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		w := &watched{Meta: meta}
		s := open(t, w, nil)
		create(t, s, "bob")
		revoked := make(chan error, 1)
		var again atomic.Bool
		w.written = func() {
			if again.Swap(true) {
				return
			}
			keys, err := open(t, meta, nil).Keys(t.Context(), "bob")
			if err != nil || len(keys) != 1 {
				t.Errorf("%d keys are written, %v", len(keys), err)
				revoked <- err
				return
			}
			go func() {
				_, err := s.RevokeKey(t.Context(), keys[0].ID)
				revoked <- err
			}()
			// It has to wait, and must not be waited for.
			select {
			case err := <-revoked:
				revoked <- err
			case <-time.After(50 * time.Millisecond):
			}
		}
		keyID, _ := createKey(t, s, accounts.NewKey{Account: "bob"})
		must(t, "revoke", <-revoked)
		if s.KeyCurrent(keyID) {
			t.Error("the revoked key is current")
		}
	})
}

// Last uses of all keys are written once a minute, and at the end; until then
// they are known here.
func TestLastUse(t *testing.T) {
	eachBubble(t, func(t *testing.T, meta storage.Meta) {
		w := &watched{Meta: meta}
		s, other := open(t, w, nil), open(t, meta, nil)
		create(t, s, "bob")
		var texts, ids []string
		for range 3 {
			id, text := createKey(t, s, accounts.NewKey{Account: "bob"})
			ids, texts = append(ids, id), append(texts, text)
		}
		stop := run(t, s)
		used := func(s *accounts.Store, id string) time.Time {
			t.Helper()
			keys, err := s.Keys(t.Context(), "bob")
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				if k.ID == id {
					return k.Used
				}
			}
			t.Fatalf("no key %s", id)
			return time.Time{}
		}
		after(30 * time.Second)
		updates, start := w.updates.Load(), time.Now()
		for range 10 {
			loginKey(t, s, "", texts[0])
			loginKey(t, s, "", texts[1])
			time.Sleep(time.Second)
		}
		want := start.Add(9 * time.Second)
		if !used(s, ids[0]).Equal(want) || !used(other, ids[0]).IsZero() || !used(s, ids[2]).IsZero() {
			t.Errorf("before it is written: %v, %v, %v", used(s, ids[0]), used(other, ids[0]), used(s, ids[2]))
		}
		// A key that is revoked meanwhile stays so.
		if _, err := s.RevokeKey(t.Context(), ids[1]); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		if got := used(other, ids[0]); got.Sub(want).Abs() > time.Millisecond || w.updates.Load() != updates+2 {
			t.Errorf("written %v with %d updates, want %v with one", got, w.updates.Load()-updates-1, want)
		}
		if keys, err := other.Keys(t.Context(), ""); err != nil || len(keys) != 2 {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		after(10 * time.Minute)
		if n := w.updates.Load(); n != updates+2 {
			t.Errorf("%d updates of nothing", n-updates-2)
		}
		// What cannot be written is written later, here at the end.
		want = time.Now()
		loginKey(t, s, "", texts[2])
		w.lost.Store(false)
		w.failing.Store(true)
		after(time.Minute)
		w.failing.Store(false)
		stop()
		if got := used(other, ids[2]); got.Sub(want).Abs() > time.Millisecond {
			t.Errorf("at the end %v was written, want %v", got, want)
		}
	})
}

func TestSweep(t *testing.T) {
	eachBubble(t, func(t *testing.T, meta storage.Meta) {
		const day = 24 * time.Hour
		var c clock
		s := open(t, meta, c.now)
		create(t, s, "bob")
		forever, _ := createKey(t, s, accounts.NewKey{Account: "bob"})
		late, _ := createKey(t, s, accounts.NewKey{Account: "bob", Expires: c.now().Add(3 * day)})
		createKey(t, s, accounts.NewKey{Account: "bob", Expires: c.now().Add(day)})
		run(t, s)
		count := func(want int) {
			t.Helper()
			after(2 * time.Hour)
			if keys, err := s.Keys(t.Context(), ""); err != nil || len(keys) != want {
				t.Errorf("%d keys, %v; want %d", len(keys), err, want)
			}
		}
		c.forward(8*day - time.Second)
		count(3)
		c.forward(time.Second)
		count(2)
		if s.KeyCurrent(late) || !s.KeyCurrent(forever) {
			t.Error("the wrong keys are current")
		}
		c.forward(100 * day)
		count(1)
	})
}

// Whatever is done at the same time, memory ends as the store does.
func TestConcurrent(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		stores := []*accounts.Store{open(t, meta, nil), open(t, meta, nil)}
		for i := range 4 {
			create(t, stores[0], fmt.Sprint("user-", i))
		}
		var mu sync.Mutex
		ids := []string{"none"}
		var all sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		var runs sync.WaitGroup
		for n, s := range stores {
			runs.Go(func() { s.Run(ctx) })
			for i := range 4 {
				all.Go(func() {
					for j := range 10 {
						name := fmt.Sprint("user-", (i+j)%4)
						k, text, err := s.CreateKey(ctx, accounts.NewKey{Account: name})
						if err == nil {
							mu.Lock()
							ids = append(ids, k.ID)
							mu.Unlock()
							_, _ = s.LoginKey(ctx, name, text)
						}
						mu.Lock()
						id := ids[(i*7+j*3)%len(ids)]
						mu.Unlock()
						_ = s.KeyCurrent(id)
						_ = s.Current(&auth.Identity{Account: name, Source: accounts.Source, Epoch: "1"})
						if j%3 == 0 {
							_, _ = s.RevokeKey(ctx, id)
						}
						if j == 5 && n == i%2 {
							_ = s.Remove(ctx, name)
							_ = s.Create(ctx, accounts.Account{Name: name}, password)
						}
						_, _ = s.Keys(ctx, name)
					}
				})
			}
		}
		all.Wait()
		fresh := open(t, meta, nil)
		for _, s := range stores {
			create(t, s, fmt.Sprintf("last-%p", s)) // follows all that was done
		}
		current := 0
		for _, id := range ids {
			for i, s := range stores {
				if s.KeyCurrent(id) != fresh.KeyCurrent(id) {
					t.Errorf("store %d takes a key for current: %v", i, s.KeyCurrent(id))
				}
			}
			if fresh.KeyCurrent(id) {
				current++
			}
		}
		t.Logf("%d of %d keys are left", current, len(ids))
		cancel()
		runs.Wait()
	})
}

// 100,000 keys take little room.
func TestManyKeys(t *testing.T) {
	const n = 100_000
	meta := &watched{Meta: mem.NewMeta()}
	must(t, "fill", meta.Update(t.Context(), func(tx storage.Tx) error {
		for i := range n {
			row := storage.APIKey{Account: fmt.Sprintf("someone-%d@example.com", i/10), Source: "ldap", Groups: []string{"dev", "ops"}, Hash: make([]byte, 32), Created: time.Now()}
			if err := storage.APIKeys.Put(tx, storage.Key(fmt.Sprintf("%016d", i)), row); err != nil {
				return err
			}
		}
		_, err := storage.Count(tx, "accounts", n)
		return err
	}))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	first := open(t, meta, nil)
	before, start := heap(), time.Now()
	s := open(t, meta, nil)
	t.Logf("read in %v", time.Since(start))
	if used := int64(heap()) - int64(before); used > 40<<20 {
		t.Errorf("takes %d MiB", used>>20)
	} else {
		t.Logf("takes %d MiB", used>>20)
	}
	if !s.KeyCurrent(fmt.Sprintf("%016d", n-1)) {
		t.Error("the last key is not current")
	}
	start = time.Now()
	keys, err := s.Keys(t.Context(), "someone-1@example.com")
	t.Logf("an account's keys in %v", time.Since(start))
	if err != nil || len(keys) != 10 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	// Nothing is read anew for a change of one's own.
	meta.views.Store(0)
	id, text := createKey(t, s, accounts.NewKey{Account: "a", Source: "ldap"})
	loginKey(t, s, "a", text)
	_, err = s.RevokeKey(t.Context(), id)
	must(t, "revoke", err)
	if n := meta.views.Load(); n != 1 {
		t.Errorf("%d views, want that of the login", n)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(first)
}
