package tokens_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

const service = "registry.example.com"

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock {
	return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 700_000_900, time.UTC)}
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newService(t testing.TB, meta storage.Meta, c *clock) *tokens.Service {
	t.Helper()
	s, err := tokens.New(t.Context(), meta, tokens.Options{Service: service, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newMem(t testing.TB) storage.Meta {
	m := mem.NewMeta()
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func openBolt(t testing.TB, dir string) storage.Meta {
	t.Helper()
	m, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// signers returns the keys of a store by id.
func signers(t testing.TB, meta storage.Meta) map[string]storage.Signer {
	t.Helper()
	all := map[string]storage.Signer{}
	err := meta.View(t.Context(), func(tx storage.Tx) error {
		for row, err := range storage.Signers.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			all[string(row.Key)] = row.Value
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// stolen returns the one key of a store, as a thief of the store has it.
func stolen(t testing.TB, meta storage.Meta) (id string, private *ecdsa.PrivateKey) {
	t.Helper()
	for id, row := range signers(t, meta) {
		k, err := x509.ParsePKCS8PrivateKey(row.Private)
		if err != nil {
			t.Fatal(err)
		}
		return id, k.(*ecdsa.PrivateKey)
	}
	t.Fatal("no key")
	return "", nil
}

func alice() *auth.Identity {
	return &auth.Identity{
		Account: "alice", Source: "ldap", Groups: []string{"dev", "ops"}, Claims: map[string]string{"ref": "main"},
		Key: "k1", Epoch: "7",
	}
}

func issue(t testing.TB, s *tokens.Service, access ...auth.Grant) tokens.Token {
	t.Helper()
	token, err := s.Issue(alice(), access)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// refused fails unless err is want and says nothing of the token.
func refused(t testing.TB, name, raw string, id *auth.Identity, err, want error) {
	t.Helper()
	switch {
	case id != nil:
		t.Errorf("%s: accepted, of %q", name, id.Account)
	case !errors.Is(err, want):
		t.Errorf("%s: %v, want %v", name, err, want)
	case len(raw) > 40 && strings.Contains(err.Error(), raw[len(raw)-40:]):
		t.Errorf("%s: the error repeats the token: %v", name, err)
	}
}

func TestIssueVerify(t *testing.T) {
	c := newClock()
	s := newService(t, newMem(t), c)
	access := []auth.Grant{
		{Repos: "team/web", Actions: auth.Pull | auth.Push},
		{Repos: "lib", Actions: auth.Delete | auth.Admin},
		{Repos: "nothing"},
		{Actions: auth.Pull},
	}
	token := issue(t, s, access...)
	if want := c.Now().Truncate(time.Second); !token.Issued.Equal(want) || token.Expires.Sub(token.Issued) != 5*time.Minute {
		t.Errorf("issued %v, expires %v", token.Issued, token.Expires)
	}
	id, until, err := s.Verify(token.Text)
	if err != nil {
		t.Fatal(err)
	}
	want := alice()
	want.Scoped, want.Grants = true, []auth.Grant{access[0], access[1], access[3]}
	if !reflect.DeepEqual(id, want) {
		t.Errorf("got %+v, want %+v", id, want)
	}
	if !until.Equal(token.Expires) {
		t.Errorf("valid until %v, want %v", until, token.Expires)
	}
	if other := issue(t, s, access...); other.Text == token.Text {
		t.Error("two tokens are the same")
	}
}

// TestBounds keeps what limits an API key in the tokens that it is good for.
func TestBounds(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	for _, grants := range [][]auth.Grant{nil, {}, {{Repos: "team/**", Actions: auth.Pull | auth.Push}}} {
		id := alice()
		id.Grants = grants
		token, err := s.Issue(id, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := s.Verify(token.Text)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Bounds, grants) {
			t.Errorf("bounds are %#v, want %#v", got.Bounds, grants)
		}
	}
}

func TestIssueAnonymous(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	token, err := s.Issue(auth.Anonymous, nil)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := s.Verify(token.Text)
	if err != nil {
		t.Fatal(err)
	}
	if !id.IsAnonymous() || id.Grants == nil || len(id.Grants) != 0 || !id.Scoped || id.Final {
		t.Errorf("got %+v", id)
	}
	if auth.Covers(id.Grants, "any", auth.Pull) {
		t.Error("a token without access covers a repository")
	}
}

// TestIssueOneRepository has it that a token is for repositories by their exact
// names: a pattern, or a name that is none, is refused.
func TestIssueOneRepository(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	for _, g := range []auth.Grant{
		{Repos: "**", Actions: auth.Pull},
		{Repos: "team/*", Actions: auth.Pull},
		{Repos: "a/../b", Actions: auth.Pull},
		{Repos: "Team", Actions: auth.Pull},
		{Repos: "", Actions: auth.Admin},
		{Repos: "", Actions: auth.Pull | auth.Push},
	} {
		if token, err := s.Issue(alice(), []auth.Grant{g}); err == nil {
			t.Errorf("%v: got %v", g, token)
		}
	}
}

// TestIssueTooLong issues no token that would not be read again.
func TestIssueTooLong(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	id := alice()
	for len(id.Groups) < 5000 {
		id.Groups = append(id.Groups, "a-group-of-many")
	}
	if _, err := s.Issue(id, nil); err == nil || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("got %v", err)
	}
	id.Groups = id.Groups[:500]
	token, err := s.Issue(id, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Verify(token.Text); err != nil {
		t.Error(err)
	}
}

func TestExpiry(t *testing.T) {
	c := newClock()
	s := newService(t, newMem(t), c)
	token := issue(t, s)
	c.add(token.Expires.Sub(c.Now()) - 1)
	if _, _, err := s.Verify(token.Text); err != nil {
		t.Errorf("just before its end: %v", err)
	}
	c.add(1)
	id, _, err := s.Verify(token.Text)
	refused(t, "at its end", token.Text, id, err, tokens.ErrExpired)
	c.add(-10 * time.Minute) // another replica's clock is behind
	id, _, err = s.Verify(token.Text)
	refused(t, "from the future", token.Text, id, err, tokens.ErrInvalid)
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]tokens.Options{
		"no service":        {},
		"long TTL":          {Service: service, TTL: 25 * time.Hour},
		"negative TTL":      {Service: service, TTL: -1},
		"negative refresh":  {Service: service, RefreshTTL: -1},
		"refresh of ages":   {Service: service, RefreshTTL: 1 << 62},
		"rotation too fast": {Service: service, Rotate: time.Second},
	} {
		if _, err := tokens.New(t.Context(), newMem(t), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestRestart has all that was issued stay valid when the server starts again.
func TestRestart(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	meta := openBolt(t, dir)
	s := newService(t, meta, c)
	token := issue(t, s, auth.Grant{Repos: "a", Actions: auth.Pull})
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	newer := issue(t, s)
	refresh, err := s.IssueRefresh(t.Context(), alice())
	if err != nil {
		t.Fatal(err)
	}
	cookie, err := s.Seal("session", map[string]string{"a": "b"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	before := signers(t, meta)
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}

	meta = openBolt(t, dir)
	s = newService(t, meta, c)
	for name, raw := range map[string]string{"older key": token.Text, "newer key": newer.Text} {
		if _, _, err := s.Verify(raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if id, err := s.Refresh(t.Context(), refresh); err != nil || id.Account != "alice" {
		t.Errorf("refresh: %v, %v", id, err)
	}
	var data map[string]string
	if err := s.Open("session", cookie, &data); err != nil || !maps.Equal(data, map[string]string{"a": "b"}) {
		t.Errorf("cookie: %v, %v", data, err)
	}
	if after := signers(t, meta); !reflect.DeepEqual(before, after) {
		t.Error("the start has changed the keys")
	}
}

// TestJWKS has the set hold the public keys, and no private one.
func TestJWKS(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	set := s.JWKS()
	if len(set.Keys) != 2 {
		t.Fatalf("%d keys, want 2", len(set.Keys))
	}
	for _, k := range set.Keys {
		text, err := k.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if !k.IsPublic() || strings.Contains(string(text), `"d":`) || k.Algorithm != "ES256" || k.Use != "sig" {
			t.Errorf("got %s", text)
		}
	}
}
