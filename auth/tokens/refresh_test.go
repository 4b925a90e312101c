package tokens_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/storage"
)

func refreshTokens(t testing.TB, meta storage.Meta) (n int) {
	t.Helper()
	err := meta.View(t.Context(), func(tx storage.Tx) error {
		n = 0
		for _, err := range storage.RefreshTokens.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func issueRefresh(t testing.TB, s *tokens.Service, id *auth.Identity) string {
	t.Helper()
	raw, err := s.IssueRefresh(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestRefresh has the identity come back as it was, again and again.
func TestRefresh(t *testing.T) {
	s := newService(t, openBolt(t, t.TempDir()), newClock())
	limited, empty := alice(), alice()
	limited.Grants = []auth.Grant{{Repos: "team/**", Actions: auth.Pull | auth.Push}, {Repos: "lib", Actions: auth.Admin}}
	empty.Grants = []auth.Grant{}
	for name, id := range map[string]*auth.Identity{
		"unlimited": alice(), "of an API key": limited, "that may nothing": empty, "plain": {Account: "bob", Source: "htpasswd"},
	} {
		raw := issueRefresh(t, s, id)
		for range 3 {
			got, err := s.Refresh(t.Context(), raw)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !reflect.DeepEqual(got, id) {
				t.Errorf("%s: got %+v, want %+v", name, got, id)
			}
		}
	}
}

// TestRefreshNone has no refresh token for whom it would give more than they have.
func TestRefreshNone(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	for name, id := range map[string]*auth.Identity{
		"anonymous": auth.Anonymous, "registry token": {Account: "a", Scoped: true}, "external": {Account: "a", Final: true},
	} {
		if raw, err := s.IssueRefresh(t.Context(), id); err == nil || raw != "" {
			t.Errorf("%s: got one", name)
		}
	}
}

func TestRefreshGuessed(t *testing.T) {
	s := newService(t, newMem(t), newClock())
	raw, other := issueRefresh(t, s, alice()), issueRefresh(t, s, alice())
	name := strings.Split(raw, "_")[1]
	for _, guess := range []string{
		"", "_", "berthr_", "berthr__", "berthr_" + name, "berthr_" + name + "_", raw + "A", raw[:len(raw)-1], raw[1:], " " + raw,
		"berthr_" + name + "_" + strings.Split(other, "_")[2], strings.ToLower(raw), strings.Replace(raw, "_", "\x00", 2),
		"berthr_" + strings.Repeat("A", 26) + "_" + strings.Repeat("A", 52), raw[:len(raw)-1] + "1",
		strings.Repeat("A", 64<<20), issue(t, s).Text,
	} {
		id, err := s.Refresh(t.Context(), guess)
		if len(guess) > 200 {
			guess = guess[:200]
		}
		refused(t, guess, guess, id, err, tokens.ErrInvalid)
	}
	if id, _, err := s.Verify(raw); err == nil {
		t.Errorf("a refresh token is a registry token, of %v", id)
	}
}

// TestRefreshExpires has use extend a refresh token, and not for ever.
func TestRefreshExpires(t *testing.T) {
	const day = 24 * time.Hour
	c := newClock()
	s := newService(t, newMem(t), c)
	unused, used := issueRefresh(t, s, alice()), issueRefresh(t, s, alice())
	for days := 20; days < 360; days += 20 {
		c.add(20 * day)
		if _, err := s.Refresh(t.Context(), used); err != nil {
			t.Fatalf("after %d days: %v", days, err)
		}
	}
	id, err := s.Refresh(t.Context(), unused)
	refused(t, "unused", unused, id, err, tokens.ErrExpired)
	c.add(20*day + time.Microsecond) // to which the store rounds
	id, err = s.Refresh(t.Context(), used)
	refused(t, "after a year", used, id, err, tokens.ErrExpired)
}

// TestRefreshWrites has a token that is used all the time not be written all the
// time.
func TestRefreshWrites(t *testing.T) {
	c := newClock()
	meta := openBolt(t, t.TempDir())
	s := newService(t, meta, c)
	raw := issueRefresh(t, s, alice())
	version := meta.(storage.Versioner).Version()
	for range 100 {
		c.add(time.Minute)
		if _, err := s.Refresh(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
	}
	if meta.(storage.Versioner).Version() != version {
		t.Error("a use of a refresh token is a write")
	}
}

func TestRevokeRefresh(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s, replica := newService(t, meta, c), newService(t, meta, c)
	bob := issueRefresh(t, s, &auth.Identity{Account: "bob", Source: "ldap"})
	var all []string
	for range 2500 {
		all = append(all, issueRefresh(t, s, alice()))
	}
	n, err := s.RevokeRefresh(t.Context(), "alice")
	if err != nil || n != len(all) {
		t.Fatalf("revoked %d, %v, want %d", n, err, len(all))
	}
	for i, raw := range all {
		id, err := replica.Refresh(t.Context(), raw)
		refused(t, fmt.Sprint("token ", i), raw, id, err, tokens.ErrInvalid)
	}
	if _, err := s.Refresh(t.Context(), bob); err != nil {
		t.Errorf("somebody else's: %v", err)
	}
	for _, account := range []string{"alice", "", "Bob", "bo"} {
		if n, err := s.RevokeRefresh(t.Context(), account); n != 0 || err != nil {
			t.Errorf("%q: %d, %v", account, n, err)
		}
	}
}

// TestRevokeWhileUsed revokes tokens while they are used and extended: none comes
// back.
func TestRevokeWhileUsed(t *testing.T) {
	c := newClock()
	meta := openBolt(t, t.TempDir())
	s := newService(t, meta, c)
	var all []string
	for range 20 {
		all = append(all, issueRefresh(t, s, alice()))
	}
	c.add(25 * 24 * time.Hour) // each use is a write
	var wg sync.WaitGroup
	for _, raw := range all {
		wg.Go(func() {
			for {
				if _, err := s.Refresh(t.Context(), raw); err != nil {
					if !errors.Is(err, tokens.ErrInvalid) {
						t.Error(err)
					}
					return
				}
				c.add(24 * time.Hour / 20)
			}
		})
	}
	if n, err := s.RevokeRefresh(t.Context(), "alice"); err != nil || n != len(all) {
		t.Errorf("revoked %d, %v", n, err)
	}
	wg.Wait()
	if n := refreshTokens(t, meta); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// TestSecretsNotStored has the store not hold what a client signs in with.
func TestSecretsNotStored(t *testing.T) {
	dir := t.TempDir()
	meta := openBolt(t, dir)
	log, logger := newLines()
	s, err := tokens.New(t.Context(), meta, tokens.Options{Service: service, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	raw := issueRefresh(t, s, alice())
	_, _ = s.Refresh(t.Context(), raw+"x")
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte(strings.Split(raw, "_")[2])
	if bytes.Contains(b, secret) {
		t.Error("the store holds the secret of a refresh token")
	}
	if strings.Contains(log.String(), string(secret)) || strings.Contains(log.String(), "Private") {
		t.Errorf("the log has %q", log)
	}
}
