package accounts_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

func TestKeys(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		var c clock
		s := open(t, meta, c.now)
		create(t, s, "bob", "dev")
		create(t, s, "eve")
		grants := []auth.Grant{{Repos: "team/*", Actions: auth.Pull | auth.Push}}
		made, text, err := s.CreateKey(t.Context(), accounts.NewKey{
			Account: "bob", Source: accounts.Source, Groups: []string{"admins"}, Grants: grants, Expires: c.now().Add(time.Hour), Note: "laptop",
		})
		if err != nil || !accounts.IsKey(text) || text[:len("berth_")+len(made.ID)+1] != "berth_"+made.ID+"_" {
			t.Fatalf("%+v, %v", made, err)
		}
		if made.Account != "bob" || made.Source != "accounts" || made.Groups != nil || made.Note != "laptop" || !reflect.DeepEqual(made.Grants, grants) {
			t.Errorf("made %+v", made)
		}
		for _, name := range []string{"bob", "", "token"} {
			id := loginKey(t, s, name, text)
			// Groups are the account's own, not what the key was asked with.
			expect := &auth.Identity{Account: "bob", Source: "accounts", Groups: []string{"dev"}, Key: made.ID, Grants: grants}
			if !reflect.DeepEqual(id, expect) {
				t.Errorf("signed in as %+v, want %+v", id, expect)
			}
		}
		for _, name := range []string{"eve", "Bob", "bob ", "nobody", "token\x00", strings.Repeat("b", 1<<20)} {
			_, err := s.LoginKey(t.Context(), name, text)
			want(t, "another's key", err, auth.ErrWrong)
		}
		// The password does not matter to keys.
		must(t, "SetPassword", s.SetPassword(t.Context(), "bob", "another password"))
		id := loginKey(t, s, "bob", text)

		listed, err := s.Keys(t.Context(), "bob")
		made.Used = c.now()
		if err != nil || len(listed) != 1 || !reflect.DeepEqual(listed[0], made) {
			t.Errorf("listed %+v, %v; want %+v", listed, err, made)
		}
		gone, err := s.RevokeKey(t.Context(), made.ID)
		if err != nil || gone.ID != made.ID || gone.Account != "bob" {
			t.Errorf("revoked %+v, %v", gone, err)
		}
		if s.KeyCurrent(made.ID) || s.Current(id) {
			t.Error("a revoked key is current")
		}
		_, err = s.LoginKey(t.Context(), "bob", text)
		want(t, "revoked", err, auth.ErrUnknown)
		_, err = s.Refresh(t.Context(), id)
		want(t, "revoked", err, auth.ErrUnknown)
		_, err = s.RevokeKey(t.Context(), made.ID)
		want(t, "revoked twice", err, auth.ErrUnknown)
	})
}

// Every other text than the key's own is refused, whatever is near it.
func TestKeyTampered(t *testing.T) {
	s := open(t, mem.NewMeta(), nil)
	create(t, s, "bob")
	id, text := createKey(t, s, accounts.NewKey{Account: "bob"})
	_, other := createKey(t, s, accounts.NewKey{Account: "bob"})
	secret, otherSecret := text[len("berth_"+id+"_"):], other[len(other)-32:]
	for text, expect := range map[string]error{
		"berth_" + id + "_" + otherSecret:                 auth.ErrWrong,
		"berth_" + id + "_" + strings.Repeat("a", 32):     auth.ErrWrong,
		"berth_" + strings.Repeat("a", 16) + "_" + secret: auth.ErrUnknown,
		"berth_" + id + "_" + strings.ToUpper(secret):     auth.ErrUnknown,
		"berth_" + id + "_" + secret[:31]:                 auth.ErrUnknown,
		"berth_" + id + "_" + secret + "a":                auth.ErrUnknown,
		"berth_" + id + "_":                               auth.ErrUnknown,
		"berth_" + id:                                     auth.ErrUnknown,
		"berth__" + secret:                                auth.ErrUnknown,
		"BERTH_" + id + "_" + secret:                      auth.ErrUnknown,
		id + "_" + secret:                                 auth.ErrUnknown,
		" berth_" + id + "_" + secret:                     auth.ErrUnknown,
		"berth_berth_" + id + "_" + secret:                auth.ErrUnknown,
		"berth_" + id + "\x00_" + secret:                  auth.ErrUnknown,
		"berth_" + id + "_" + secret[:30] + "\x00\x00":    auth.ErrUnknown,
		"": auth.ErrUnknown,
		"berth_" + strings.Repeat("a", 1<<20) + "_" + secret:      auth.ErrUnknown,
		"berth_" + id + "_" + strings.Repeat(secret, 1<<15) + "_": auth.ErrUnknown,
	} {
		_, err := s.LoginKey(t.Context(), "", text)
		want(t, "login", err, expect)
		if formed := errors.Is(expect, auth.ErrWrong) || text == "berth_"+strings.Repeat("a", 16)+"_"+secret; accounts.IsKey(text) != formed {
			t.Errorf("IsKey(%.60q) is %v", text, !formed)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Error("the error tells the secret")
		}
	}
	for _, bad := range []string{"", "x", id + "\x00", strings.Repeat("a", 1<<20), text} {
		_, err := s.RevokeKey(t.Context(), bad)
		want(t, "revoke", err, auth.ErrUnknown)
	}
	loginKey(t, s, "bob", text)
}

func TestKeyExpires(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		var c clock
		s := open(t, meta, c.now)
		create(t, s, "bob")
		keyID, text := createKey(t, s, accounts.NewKey{Account: "bob", Expires: c.now().Add(time.Hour)})
		c.forward(time.Hour - time.Second)
		id := loginKey(t, s, "bob", text)
		c.forward(time.Second)
		_, err := s.LoginKey(t.Context(), "bob", text)
		want(t, "expired", err, auth.ErrWrong)
		_, err = s.Refresh(t.Context(), id)
		want(t, "expired", err, auth.ErrWrong)
		if s.KeyCurrent(keyID) || s.Current(id) {
			t.Error("an expired key is current")
		}
		if keys, err := s.Keys(t.Context(), "bob"); err != nil || len(keys) != 1 {
			t.Errorf("an expired key is not listed: %v, %v", keys, err)
		}
	})
}

func TestKeyRefused(t *testing.T) {
	var c clock
	s := open(t, mem.NewMeta(), c.now)
	create(t, s, "bob")
	for what, k := range map[string]accounts.NewKey{
		"no account":             {Source: "ldap"},
		"account of two lines":   {Source: "ldap", Account: "a\nb"},
		"huge account":           {Source: "ldap", Account: strings.Repeat("a", 257)},
		"source of two lines":    {Source: "ldap\n", Account: "a"},
		"huge note":              {Account: "bob", Note: strings.Repeat("n", 257)},
		"note with NUL":          {Account: "bob", Note: "\x00"},
		"expired":                {Account: "bob", Expires: c.now()},
		"grants of nothing":      {Account: "bob", Grants: []auth.Grant{}},
		"grant of no action":     {Account: "bob", Grants: []auth.Grant{{Repos: "**"}}},
		"grant of other actions": {Account: "bob", Grants: []auth.Grant{{Repos: "**", Actions: 1 << 7}}},
		"grant of no repository": {Account: "bob", Grants: []auth.Grant{{Actions: auth.Pull}}},
		"grant of a bad pattern": {Account: "bob", Grants: []auth.Grant{{Repos: "a/../b", Actions: auth.Pull}}},
		"too many grants":        {Account: "bob", Grants: make([]auth.Grant, 1001)},
	} {
		_, text, err := s.CreateKey(t.Context(), k)
		want(t, what, err, accounts.ErrKey)
		if text != "" {
			t.Errorf("%s: a key beside an error", what)
		}
	}
	_, _, err := s.CreateKey(t.Context(), accounts.NewKey{Source: "ldap", Account: "a", Groups: []string{"a\n"}})
	want(t, "group", err, accounts.ErrName)
	if keys, err := s.Keys(t.Context(), ""); err != nil || len(keys) != 0 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

// Nobody fills the memory with keys; those that have expired do not count.
func TestKeyLimit(t *testing.T) {
	var c clock
	s := open(t, mem.NewMeta(), c.now)
	create(t, s, "bob")
	for i := range 1010 {
		k := accounts.NewKey{Account: "bob"}
		if i < 10 {
			k.Expires = c.now().Add(time.Second)
		} else {
			c.forward(time.Second)
		}
		createKey(t, s, k)
	}
	_, _, err := s.CreateKey(t.Context(), accounts.NewKey{Account: "bob"})
	want(t, "one more", err, accounts.ErrKey)
	createKey(t, s, accounts.NewKey{Account: "eve", Source: "ldap"})
}

// Accounts that another source vouches for have keys too, with the groups that
// they had then. An account of this store with the same name is somebody else.
func TestKeysOfOtherSources(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		name := "google/alice@example.com"
		_, text := createKey(t, s, accounts.NewKey{Account: name, Source: "google", Groups: []string{"b", "a"}})
		id := loginKey(t, s, name, text)
		if id.Source != "google" || id.Account != name || strings.Join(id.Groups, " ") != "a b" {
			t.Errorf("signed in as %+v", id)
		}
		if fresh, err := s.Refresh(t.Context(), id); err != nil || !reflect.DeepEqual(fresh, id) {
			t.Errorf("refreshed to %+v, %v", fresh, err)
		}
		posing := *id
		posing.Account = "google/admin@example.com"
		if s.Current(&posing) {
			t.Error("a key vouches for somebody else")
		}
		_, err := s.Refresh(t.Context(), &posing)
		want(t, "posing", err, auth.ErrWrong)
		posing = *id
		posing.Key = ""
		if s.Current(&posing) {
			t.Error("vouches for an account of another source")
		}
		_, err = s.Refresh(t.Context(), &posing)
		want(t, "another source", err, auth.ErrUnknown)

		_, theirs := createKey(t, s, accounts.NewKey{Account: "bob", Source: "ldap"})
		create(t, s, "bob")
		_, ours := createKey(t, s, accounts.NewKey{Account: "bob"})
		if keys, err := s.Keys(t.Context(), "bob"); err != nil || len(keys) != 2 {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		must(t, "remove", s.Remove(t.Context(), "bob"))
		loginKey(t, s, "bob", theirs)
		_, err = s.LoginKey(t.Context(), "bob", ours)
		want(t, "removed account's key", err, auth.ErrUnknown)
	})
}

func TestRefresh(t *testing.T) {
	eachStore(t, func(t *testing.T, meta storage.Meta) {
		s := open(t, meta, nil)
		create(t, s, "bob", "dev")
		_, text := createKey(t, s, accounts.NewKey{Account: "bob", Grants: []auth.Grant{{Repos: "a/**", Actions: auth.Pull}}})
		byPassword, byKey := login(t, s, "bob", password), loginKey(t, s, "bob", text)
		narrow := *byPassword
		narrow.Grants, narrow.Scoped = []auth.Grant{{Repos: "a", Actions: auth.Pull}}, true
		_, err := s.Update(t.Context(), "bob", func(a *accounts.Account) error { a.Groups = []string{"ops"}; return nil })
		must(t, "update", err)
		for _, id := range []*auth.Identity{byPassword, byKey, &narrow} {
			expect := *id
			expect.Groups = []string{"ops"}
			if fresh, err := s.Refresh(t.Context(), id); err != nil || !reflect.DeepEqual(fresh, &expect) || id.Groups[0] != "dev" {
				t.Errorf("refreshed to %+v, %v; want %+v", fresh, err, expect)
			}
		}
		byKey.Grants = nil
		if fresh, err := s.Refresh(t.Context(), byKey); err != nil || len(fresh.Grants) != 1 {
			t.Errorf("refreshed to %+v, %v: the key's limits are lost", fresh, err)
		}
	})
}

func TestKeyJSON(t *testing.T) {
	b, err := json.Marshal(accounts.Key{ID: "i", Account: "a", Source: "s", Created: time.Unix(0, 0).UTC()})
	if expect := `{"id":"i","account":"a","source":"s","created":"1970-01-01T00:00:00Z"}`; err != nil || string(b) != expect {
		t.Errorf("%s, %v; want %s", b, err, expect)
	}
}

func FuzzIsKey(f *testing.F) {
	s, err := accounts.New(f.Context(), mem.NewMeta(), accounts.Options{Cost: 4})
	if err != nil {
		f.Fatal(err)
	}
	_, text, err := s.CreateKey(f.Context(), accounts.NewKey{Account: "a", Source: "ldap"})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "berth_", "berth_a_b", text, text + "_", "berth_" + text, strings.ToUpper(text)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		parts := strings.Split(in, "_")
		formed := len(parts) == 3 && parts[0] == "berth" && len(parts[1]) == 16 && len(parts[2]) == 32 &&
			strings.Trim(parts[1]+parts[2], "abcdefghijklmnopqrstuvwxyz234567") == ""
		if accounts.IsKey(in) != formed {
			t.Errorf("IsKey is %v", !formed)
		}
		if id, err := s.LoginKey(t.Context(), "", in); (err == nil) != (in == text) || (id == nil) != (err != nil) {
			t.Errorf("%v, %v", id, err)
		}
	})
}
