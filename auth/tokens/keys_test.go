package tokens_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// TestFirstKey starts several replicas at once: one makes the key.
func TestFirstKey(t *testing.T) {
	for name, meta := range map[string]storage.Meta{"mem": newMem(t), "bolt": openBolt(t, t.TempDir())} {
		c := newClock()
		all := make([]*tokens.Service, 10)
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { all[i] = newService(t, meta, c) })
		}
		wg.Wait()
		if n := len(signers(t, meta)); n != 1 {
			t.Errorf("%s: %d keys, want 1", name, n)
		}
		raw := issue(t, all[0]).Text
		for i, s := range all {
			if _, _, err := s.Verify(raw); err != nil {
				t.Errorf("%s: replica %d: %v", name, i, err)
			}
		}
	}
}

func TestNewFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := tokens.New(ctx, newMem(t), tokens.Options{Service: service}); err == nil || s != nil {
		t.Error("no error of a context that has ended")
	}
	meta := mem.NewMeta()
	_ = meta.Close()
	if _, err := tokens.New(t.Context(), meta, tokens.Options{Service: service}); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("a closed store: %v", err)
	}
}

// kid returns which key signs now.
func kid(t testing.TB, s *tokens.Service) string {
	t.Helper()
	return strings.Split(issue(t, s).Text, ".")[0] // the header, which is equal for the same key
}

// TestRotate has tokens of a replaced key stay valid until they expire, and what
// the key signs afterwards not.
func TestRotate(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s := newService(t, meta, c)
	id, private := stolen(t, meta)
	header := object{"alg": "ES256", "kid": id, "typ": "JWT"}
	before, old := kid(t, s), issue(t, s)
	cookie, err := s.Seal("session", 1, tokens.MaxLife)
	if err != nil {
		t.Fatal(err)
	}
	c.add(time.Second)
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kid(t, s) == before {
		t.Error("the old key signs on")
	}
	c.add(4 * time.Minute)
	if _, _, err := s.Verify(old.Text); err != nil {
		t.Errorf("of the old key, within its time: %v", err)
	}
	c.add(2 * time.Minute)
	got, _, err := s.Verify(old.Text)
	refused(t, "of the old key, after its time", old.Text, got, err, tokens.ErrExpired)

	c.add(tokens.MaxLife - 7*time.Minute)
	var n int
	if err := s.Open("session", cookie, &n); err != nil {
		t.Errorf("a cookie of the old key, within its time: %v", err)
	}
	c.add(10 * time.Minute)
	raw := forge(t, private, header, good(c.Now()))
	got, _, err = s.Verify(raw)
	refused(t, "a new token of the old key, when none of its can be valid", raw, got, err, tokens.ErrInvalid)
	if set := s.JWKS(); len(set.Keys) != 1 {
		t.Errorf("%d public keys, want 1", len(set.Keys))
	}
}

// TestRotateBusy rotates while many issue and verify: no token is refused.
func TestRotateBusy(t *testing.T) {
	for name, meta := range map[string]storage.Meta{"mem": newMem(t), "bolt": openBolt(t, t.TempDir())} {
		s := newService(t, meta, newClock())
		stop := run(t, s.Run)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 20 {
					token, err := s.Issue(alice(), []auth.Grant{{Repos: "a", Actions: auth.Pull}})
					if err != nil {
						t.Error(err)
						return
					}
					if _, _, err := s.Verify(token.Text); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
		for range 4 {
			wg.Go(func() {
				for range 5 {
					if err := s.Rotate(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		stop()
		active := 0
		for _, row := range signers(t, meta) {
			if row.Retired.IsZero() {
				active++
			}
		}
		if active != 1 {
			t.Errorf("%s: %d keys sign", name, active)
		}
	}
}

// TestReplicas has what one replica signs be valid at another, also if somebody made its
// key by hand just now.
func TestReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta := mem.NewMeta()
		o := tokens.Options{Service: service, Rotate: 2 * time.Minute}
		var replicas []*tokens.Service
		for range 3 {
			s, err := tokens.New(t.Context(), meta, o)
			if err != nil {
				t.Fatal(err)
			}
			replicas = append(replicas, s)
			time.Sleep(7 * time.Second) // they do not tick together
			run(t, s.Run)
		}
		seen := map[string]bool{}
		for range 20 * 60 {
			time.Sleep(time.Second)
			for i, s := range replicas {
				raw := issue(t, s).Text
				seen[strings.Split(raw, ".")[0]] = true
				if _, _, err := replicas[(i+1)%3].Verify(raw); err != nil {
					t.Fatalf("%v: %v", time.Now(), err)
				}
			}
		}
		if n := len(seen); n < 9 || n > 11 {
			t.Errorf("%d keys in 20 minutes, want one for each 2", n)
		}

		if err := replicas[0].Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		raw := issue(t, replicas[0]).Text
		begin := time.Now()
		if _, _, err := replicas[1].Verify(raw); err != nil || time.Since(begin) > time.Second {
			t.Fatalf("a key that the replica has not read: %v after %v", err, time.Since(begin))
		}
		time.Sleep(31 * time.Second)
		if a, b := kid(t, replicas[0]), kid(t, replicas[2]); a != b {
			t.Error("another replica signs with the old key still")
		}
	})
}

// TestSweep lets a server run for days: keys and refresh tokens that nothing
// depends on go.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meta := mem.NewMeta()
		s, err := tokens.New(t.Context(), meta, tokens.Options{Service: service, Rotate: 6 * time.Hour, RefreshTTL: 48 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		run(t, s.Run)
		for range 2500 {
			if _, err := s.IssueRefresh(t.Context(), alice()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(47 * time.Hour)
		kept, err := s.IssueRefresh(t.Context(), alice())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Hour)
		if n := refreshTokens(t, meta); n != 1 {
			t.Errorf("%d refresh tokens, want 1", n)
		}
		if _, err := s.Refresh(t.Context(), kept); err != nil {
			t.Error(err)
		}
		if n := len(signers(t, meta)); n < 5 || n > 7 {
			t.Errorf("%d keys after 51 hours, want those of a day", n)
		}
	})
}

// TestOverdue starts a server that was off for longer than a key signs.
func TestOverdue(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s := newService(t, meta, c)
	before := kid(t, s)
	c.add(90 * 24 * time.Hour)
	s = newService(t, meta, c)
	if kid(t, s) != before {
		t.Error("a key signs that other replicas cannot have read")
	}
	c.add(3 * time.Minute)
	if kid(t, s) == before {
		t.Error("the old key signs on")
	}
}

// TestDamagedKeys has a row that holds no key leave the others alone, and a store
// of only such rows get a new key.
func TestDamagedKeys(t *testing.T) {
	c, meta := newClock(), newMem(t)
	s := newService(t, meta, c)
	token := issue(t, s)
	id, _ := stolen(t, meta)
	damage := func(key string) {
		t.Helper()
		err := meta.Update(t.Context(), func(tx storage.Tx) error {
			return storage.Signers.Put(tx, storage.Key(key), storage.Signer{Private: []byte("secret-secret"), Created: c.Now()})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	damage("other")
	log, logger := newLines()
	s, err := tokens.New(t.Context(), meta, tokens.Options{Service: service, Now: c.Now, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Verify(token.Text); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "damaged"); n != 1 || strings.Contains(log.String(), "secret-secret") {
		t.Errorf("the log has %q", log)
	}
	damage(id)
	s = newService(t, meta, c)
	got, _, err := s.Verify(token.Text)
	refused(t, "of a damaged key", token.Text, got, err, tokens.ErrInvalid)
	if _, _, err := s.Verify(issue(t, s).Text); err != nil {
		t.Error(err)
	}
}

// TestSwappedKey has a key under the id of another not be used.
func TestSwappedKey(t *testing.T) {
	c, meta := newClock(), newMem(t)
	newService(t, meta, c)
	id, _ := stolen(t, meta)
	other := newMem(t)
	newService(t, other, c)
	for _, row := range signers(t, other) {
		err := meta.Update(t.Context(), func(tx storage.Tx) error { return storage.Signers.Put(tx, storage.Key(id), row) })
		if err != nil {
			t.Fatal(err)
		}
	}
	s := newService(t, meta, c)
	for _, k := range s.JWKS().Keys {
		if k.KeyID == id {
			t.Error("the id names another key than before")
		}
	}
}
