package accounts_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

const password = "correct horse"

// eachStore runs a test on each kind of metadata store.
func eachStore(t *testing.T, test func(t *testing.T, meta storage.Meta)) {
	t.Run("bolt", func(t *testing.T) { test(t, openBolt(t)) })
	t.Run("mem", func(t *testing.T) { test(t, mem.NewMeta()) })
}

func openBolt(t *testing.T) storage.Meta {
	t.Helper()
	meta, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	return meta
}

// clock is a time that tests set.
type clock struct{ seconds atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_900_000_000+c.seconds.Load(), 0).UTC() }
func (c *clock) forward(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }

func open(t *testing.T, meta storage.Meta, now func() time.Time) *accounts.Store {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := accounts.New(t.Context(), meta, accounts.Options{Now: now, Log: log, Cost: bcrypt.MinCost})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *accounts.Store, name string, groups ...string) {
	t.Helper()
	if err := s.Create(t.Context(), accounts.Account{Name: name, Groups: groups}, password); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

func createKey(t *testing.T, s *accounts.Store, k accounts.NewKey) (id, text string) {
	t.Helper()
	made, text, err := s.CreateKey(t.Context(), k)
	if err != nil {
		t.Fatalf("create a key of %s: %v", k.Account, err)
	}
	return made.ID, text
}

// login returns the identity, which it checks to be current.
func login(t *testing.T, s *accounts.Store, name, pass string) *auth.Identity {
	t.Helper()
	id, err := s.Login(t.Context(), name, pass)
	if err != nil || id.Account != name || id.Source != s.Name() || id.Key != "" || !s.Current(id) {
		t.Fatalf("log in %s: %+v, %v", name, id, err)
	}
	return id
}

func loginKey(t *testing.T, s *accounts.Store, name, text string) *auth.Identity {
	t.Helper()
	id, err := s.LoginKey(t.Context(), name, text)
	if err != nil || id.Key == "" || !s.Current(id) || !s.KeyCurrent(id.Key) {
		t.Fatalf("log in %s by a key: %+v, %v", name, id, err)
	}
	return id
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	want(t, what, err, nil)
}

func disable(a *accounts.Account) error {
	a.Disabled = true
	return nil
}

func TestAccounts(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		var c clock
		s := open(t, meta, c.now)
		create(t, s, "bob", "ops", "dev", "ops")
		must(t, "create a robot", s.Create(t.Context(), accounts.Account{Name: "ci", Robot: true}, ""))

		bob, err := s.Get(t.Context(), "bob")
		if err != nil || bob.Name != "bob" || bob.Robot || bob.Disabled || !bob.Created.Equal(c.now()) || !slices.Equal(bob.Groups, []string{"dev", "ops"}) {
			t.Errorf("bob is %+v, %v", bob, err)
		}
		list, err := s.List(t.Context())
		if err != nil || len(list) != 2 || list[0].Name != "bob" || list[1].Name != "ci" || !list[1].Robot {
			t.Errorf("the list is %+v, %v", list, err)
		}
		if id := login(t, s, "bob", password); !slices.Equal(id.Groups, bob.Groups) || id.Grants != nil {
			t.Errorf("bob signs in as %+v", id)
		}
		bob, err = s.Update(t.Context(), "bob", func(a *accounts.Account) error {
			a.Groups = append(a.Groups, "all")
			return nil
		})
		if err != nil || !slices.Equal(bob.Groups, []string{"all", "dev", "ops"}) {
			t.Errorf("bob became %+v, %v", bob, err)
		}
		// All is durable: another store finds the same.
		if id := login(t, open(t, meta, c.now), "bob", password); !slices.Equal(id.Groups, bob.Groups) {
			t.Errorf("bob signs in as %+v after a restart", id)
		}
		must(t, "remove", s.Remove(t.Context(), "bob"))
		_, err = s.Get(t.Context(), "bob")
		want(t, "get", err, auth.ErrUnknown)
		if list, err := s.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("the list is %+v, %v", list, err)
		}
	})
}

func TestUnknown(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob")
		for _, name := range []string{"eve", "", "Bob", "bob ", "bob\x00", "\x00", "../bob", "bób", strings.Repeat("b", 65), strings.Repeat("b", 1<<20), "\xff"} {
			_, err := s.Login(t.Context(), name, password)
			want(t, "Login", err, auth.ErrUnknown)
			_, err = s.Get(t.Context(), name)
			want(t, "Get", err, auth.ErrUnknown)
			_, err = s.Update(t.Context(), name, disable)
			want(t, "Update", err, auth.ErrUnknown)
			want(t, "SetPassword", s.SetPassword(t.Context(), name, password), auth.ErrUnknown)
			want(t, "Remove", s.Remove(t.Context(), name), auth.ErrUnknown)
			if _, _, err = s.CreateKey(t.Context(), accounts.NewKey{Account: name, Source: accounts.Source}); !errors.Is(err, auth.ErrUnknown) {
				t.Errorf("CreateKey: %v", err)
			}
			if _, err := s.Refresh(t.Context(), &auth.Identity{Account: name, Source: accounts.Source}); !errors.Is(err, auth.ErrUnknown) {
				t.Errorf("Refresh: %v", err)
			}
		}
		if list, err := s.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("the list is %+v, %v", list, err)
		}
	})
}

func TestNames(t *testing.T) {
	s := open(t, mem.NewMeta(), nil)
	for _, name := range []string{"a", "0", "a.b_c-d@e.example", strings.Repeat("x", 64)} {
		create(t, s, name)
	}
	for _, name := range []string{
		"", "A", "ä", "a b", "a/b", "a:b", "a\x00", "a\n", ".", "..", ".a", "-a", "_a", "@a", "a\xff", "token", "anonymous",
		"everyone", "authenticated", strings.Repeat("x", 65), strings.Repeat("x", 1<<20),
	} {
		err := s.Create(t.Context(), accounts.Account{Name: name}, password)
		want(t, fmt.Sprintf("%.20q", name), err, accounts.ErrName)
	}
	for _, group := range []string{"", "a\n", "\x00", "\xff", strings.Repeat("g", 257)} {
		err := s.Create(t.Context(), accounts.Account{Name: "b", Groups: []string{group}}, password)
		want(t, fmt.Sprintf("group %.20q", group), err, accounts.ErrName)
		_, err = s.Update(t.Context(), "a", func(a *accounts.Account) error {
			a.Groups = []string{group}
			return nil
		})
		want(t, fmt.Sprintf("group %.20q", group), err, accounts.ErrName)
	}
	want(t, "groups", s.Create(t.Context(), accounts.Account{Name: "b", Groups: make([]string, 1001)}, password), accounts.ErrName)
	create(t, s, "c", "cn=Ops Team,dc=example,dc=org", "ä/b:c")
}

func TestPasswords(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		long := strings.Repeat("l", 72)
		create(t, s, "bob")
		for _, bad := range []string{"", "1234567", long + "l", strings.Repeat("l", 1<<20), "pass\x00word", "password\n", "password\xff"} {
			err := s.Create(t.Context(), accounts.Account{Name: "eve"}, bad)
			want(t, "Create", err, accounts.ErrPassword)
			if bad != "" && strings.Contains(err.Error(), bad) {
				t.Error("the error tells the password")
			}
			want(t, "SetPassword", s.SetPassword(t.Context(), "bob", bad), accounts.ErrPassword)
		}
		for _, good := range []string{"12345678", long, "pässwörd ☃ with blanks", "a:b:c:d:e"} {
			must(t, "SetPassword", s.SetPassword(t.Context(), "bob", good))
			login(t, s, "bob", good)
			for _, wrong := range []string{"", good + "l", good[:len(good)-1], good + "\x00", good + "\x00" + good, good + strings.Repeat("l", 1<<20), password} {
				_, err := s.Login(t.Context(), "bob", wrong)
				want(t, "Login", err, auth.ErrWrong)
			}
		}
		want(t, "robot with a password", s.Create(t.Context(), accounts.Account{Name: "ci", Robot: true}, password), accounts.ErrPassword)
		must(t, "robot", s.Create(t.Context(), accounts.Account{Name: "ci", Robot: true}, ""))
		want(t, "robot's password", s.SetPassword(t.Context(), "ci", password), accounts.ErrPassword)
		for _, p := range []string{"", password} {
			_, err := s.Login(t.Context(), "ci", p)
			want(t, "robot", err, auth.ErrWrong)
		}
	})
}

func TestCost(t *testing.T) {
	for cost, good := range map[int]bool{-1: false, 0: true, 3: false, 4: true, 16: false, 31: false} {
		if _, err := accounts.New(t.Context(), mem.NewMeta(), accounts.Options{Cost: cost}); (err == nil) != good {
			t.Errorf("cost %d: %v", cost, err)
		}
	}
}

// What was signed in by a password holds until there is another, and never for
// another account of the same name.
func TestEpoch(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob")
		create(t, s, "eve")
		first := login(t, s, "bob", password)
		other := *first
		other.Account = "eve"
		elsewhere := *first
		elsewhere.Source = "htpasswd"
		if s.Current(&other) || s.Current(&elsewhere) || s.Current(auth.Anonymous) {
			t.Error("an identity that nobody vouched for is current")
		}
		must(t, "same password again", s.SetPassword(t.Context(), "bob", password))
		second := login(t, s, "bob", password)
		if s.Current(first) {
			t.Error("current with the last password")
		}
		_, err := s.Refresh(t.Context(), first)
		want(t, "refresh", err, auth.ErrWrong)
		must(t, "remove", s.Remove(t.Context(), "bob"))
		if s.Current(second) {
			t.Error("current after the account was removed")
		}
		create(t, s, "bob")
		must(t, "password", s.SetPassword(t.Context(), "bob", password))
		if third := login(t, s, "bob", password); s.Current(first) || s.Current(second) || third.Epoch == second.Epoch {
			t.Error("current for another account of the same name")
		}
		if again := open(t, meta, nil); again.Current(second) || !again.Current(login(t, s, "bob", password)) {
			t.Error("after a restart something else is current")
		}
	})
}

func TestDisabled(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob")
		keyID, text := createKey(t, s, accounts.NewKey{Account: "bob"})
		byPassword, byKey := login(t, s, "bob", password), loginKey(t, s, "bob", text)
		a, err := s.Update(t.Context(), "bob", disable)
		if err != nil || !a.Disabled {
			t.Fatalf("%+v, %v", a, err)
		}
		for _, s := range []*accounts.Store{s, open(t, meta, nil)} {
			if s.Current(byPassword) || s.Current(byKey) || s.KeyCurrent(keyID) {
				t.Error("a disabled account is current")
			}
			_, err = s.Login(t.Context(), "bob", password)
			want(t, "Login", err, auth.ErrWrong)
			_, err = s.LoginKey(t.Context(), "bob", text)
			want(t, "LoginKey", err, auth.ErrWrong)
			_, err = s.Refresh(t.Context(), byPassword)
			want(t, "Refresh", err, auth.ErrWrong)
			_, err = s.Refresh(t.Context(), byKey)
			want(t, "Refresh", err, auth.ErrWrong)
			_, _, err = s.CreateKey(t.Context(), accounts.NewKey{Account: "bob"})
			want(t, "CreateKey", err, accounts.ErrKey)
		}
		_, err = s.Update(t.Context(), "bob", func(a *accounts.Account) error { a.Disabled = false; return nil })
		must(t, "enable", err)
		if !s.Current(byPassword) || !s.Current(byKey) {
			t.Error("an enabled account is not current")
		}
		login(t, s, "bob", password)
		loginKey(t, s, "bob", text)
	})
}

func TestUpdateRefuses(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob", "dev")
		own := errors.New("own")
		_, err := s.Update(t.Context(), "bob", func(a *accounts.Account) error {
			a.Groups[0] = "admins"
			return own
		})
		want(t, "its error", err, own)
		for _, change := range []func(*accounts.Account){
			func(a *accounts.Account) { a.Name = "eve" },
			func(a *accounts.Account) { a.Robot = true },
			func(a *accounts.Account) { a.Created = time.Time{} },
		} {
			if _, err := s.Update(t.Context(), "bob", func(a *accounts.Account) error { a.Disabled = true; change(a); return nil }); err == nil {
				t.Error("what is fixed was changed")
			}
		}
		if a, err := s.Get(t.Context(), "bob"); err != nil || a.Disabled || !slices.Equal(a.Groups, []string{"dev"}) {
			t.Errorf("bob is %+v, %v", a, err)
		}
	})
}

func TestCreateAtOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		stores := []*accounts.Store{open(t, meta, nil), open(t, meta, nil)}
		const n = 10
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				errs[i] = stores[i%2].Create(t.Context(), accounts.Account{Name: "bob"}, fmt.Sprint(password, i))
			})
		}
		all.Wait()
		won := -1
		for i, err := range errs {
			if err == nil && won < 0 {
				won = i
			} else {
				want(t, "another", err, accounts.ErrExists)
			}
		}
		login(t, stores[won%2], "bob", fmt.Sprint(password, won))
		login(t, stores[1-won%2], "bob", fmt.Sprint(password, won))
	})
}

// An account is removed while keys of it are made: none is left, not in memory
// either, and a new account has none.
func TestRemoveWhileCreatingKeys(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob")
		var mu sync.Mutex
		var texts []string
		var all sync.WaitGroup
		started := make(chan struct{}, 100)
		for range 4 {
			all.Go(func() {
				for range 20 {
					_, text, err := s.CreateKey(t.Context(), accounts.NewKey{Account: "bob"})
					started <- struct{}{}
					if err != nil {
						want(t, "CreateKey", err, auth.ErrUnknown)
						continue
					}
					mu.Lock()
					texts = append(texts, text)
					mu.Unlock()
				}
			})
		}
		for range 10 {
			<-started
		}
		must(t, "remove", s.Remove(t.Context(), "bob"))
		all.Wait()
		create(t, s, "bob")
		if len(texts) < 5 {
			t.Fatalf("only %d keys were made", len(texts))
		}
		for _, text := range texts {
			_, err := s.LoginKey(t.Context(), "", text)
			want(t, "LoginKey", err, auth.ErrUnknown)
			if id := strings.Split(text, "_")[1]; s.KeyCurrent(id) {
				t.Error("a key of a removed account is current")
			}
		}
		if keys, err := s.Keys(t.Context(), "bob"); err != nil || len(keys) != 0 {
			t.Errorf("%d keys are left, %v", len(keys), err)
		}
	})
}

func TestRemoveTakesRefreshTokens(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob")
		rows := map[string]storage.RefreshToken{
			"bobs":      {Account: "bob", Source: accounts.Source},
			"others":    {Account: "eve", Source: accounts.Source},
			"elsewhere": {Account: "bob", Source: "ldap"},
		}
		must(t, "put", meta.Update(t.Context(), func(tx storage.Tx) error {
			for id, row := range rows {
				if err := storage.RefreshTokens.Put(tx, storage.Key(id), row); err != nil {
					return err
				}
			}
			return nil
		}))
		must(t, "remove", s.Remove(t.Context(), "bob"))
		must(t, "look", meta.View(t.Context(), func(tx storage.Tx) error {
			for id := range rows {
				there, err := storage.RefreshTokens.Has(tx, storage.Key(id))
				if err != nil || there == (id == "bobs") {
					t.Errorf("token %s: there %v, %v", id, there, err)
				}
			}
			return nil
		}))
	})
}

// Nothing of a password or of a key's secret is in the store.
func TestNothingInTheClear(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob")
		_, text := createKey(t, s, accounts.NewKey{Account: "bob", Note: "laptop"})
		secret := strings.Split(text, "_")[2]
		rows := 0
		must(t, "look", meta.View(t.Context(), func(tx storage.Tx) error {
			for _, table := range storage.Tables() {
				for row, err := range tx.Scan(table, nil, nil) {
					if err != nil {
						return err
					}
					rows++
					if all := string(row.Key) + string(row.Value); strings.Contains(all, password) || strings.Contains(all, secret) {
						t.Errorf("a secret is in the clear in %s", table)
					}
				}
			}
			return nil
		}))
		if rows < 3 {
			t.Errorf("looked at %d rows", rows)
		}
	})
}

func TestContext(t *testing.T) {
	s := open(t, openBolt(t), nil)
	create(t, s, "bob")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Login(ctx, "bob", password)
	want(t, "Login", err, context.Canceled)
	want(t, "Remove", s.Remove(ctx, "bob"), context.Canceled)
	login(t, s, "bob", password)
}
