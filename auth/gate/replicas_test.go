package gate_test

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
)

// TestStale vouches for nobody while it is not known what was revoked elsewhere, says
// that this will pass, and serves those who say nothing.
func TestStale(t *testing.T) {
	var stale atomic.Bool
	w := newWorld(t, func(_ *world, o *gate.Options) { o.Stale = stale.Load })
	_, key := w.key(accounts.NewKey{Account: "robot"})
	login := basic("alice", alicePass)
	token := w.token(login, "repository:team/web:pull")
	credentials := map[string]string{"a password": login, "a token": "Bearer " + token, "a key": "Bearer " + key, "a wrong password": basic("alice", "x")}
	for what, authorization := range credentials {
		if got := w.get("/v2/", authorization).status; (got != http.StatusOK) != (what == "a wrong password") {
			t.Errorf("before, %s: %d", what, got)
		}
	}
	stale.Store(true)
	for what, authorization := range credentials {
		for _, path := range []string{"/v2/", "/token", "/api/x"} {
			r := w.get(path, authorization)
			if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
				t.Errorf("%s at %s: %d, Retry-After %q", what, path, r.status, r.header.Get("Retry-After"))
			}
		}
	}
	if r := w.post(url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {alicePass}, "service": {service}}); r.status != http.StatusServiceUnavailable {
		t.Errorf("a form: %d", r.status)
	}
	if r := w.get("/api/x", ""); r.status != http.StatusOK {
		t.Errorf("nobody: %d", r.status)
	}
	stale.Store(false)
	if r := w.get("/v2/", login); r.status != http.StatusOK {
		t.Errorf("afterwards: %d", r.status)
	}
}

// TestLooks looks what has changed elsewhere for those who seem to hold no longer, and
// for nobody else.
func TestLooks(t *testing.T) {
	var looks atomic.Int64
	var elsewhere func()
	w := newWorld(t, func(_ *world, o *gate.Options) {
		o.Look = func(context.Context) error {
			looks.Add(1)
			elsewhere()
			return nil
		}
	})
	elsewhere = func() {}
	id, key := w.key(accounts.NewKey{Account: "robot"})
	token := w.token(basic("robot", key), "repository:team/web:pull")
	for range 10 {
		if r := w.get("/v2/", "Bearer "+token); r.status != http.StatusOK {
			t.Fatalf("%d", r.status)
		}
	}
	if n := looks.Load(); n != 0 {
		t.Errorf("%d looks for who holds", n)
	}
	_, err := w.store.Update(t.Context(), "robot", func(a *accounts.Account) error { a.Disabled = true; return nil })
	ok(t, err)
	if r := w.get("/v2/", "Bearer "+token); r.status != http.StatusUnauthorized || looks.Load() != 1 {
		t.Errorf("a disabled account: %d after %d looks", r.status, looks.Load())
	}
	elsewhere = func() { // it turns out that it was enabled again
		_, err := w.store.Update(t.Context(), "robot", func(a *accounts.Account) error { a.Disabled = false; return nil })
		ok(t, err)
	}
	if r := w.get("/v2/", "Bearer "+token); r.status != http.StatusOK {
		t.Errorf("an account that holds elsewhere: %d, key %s", r.status, id)
	}
}
