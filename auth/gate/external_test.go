package gate_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/tokens"
)

// With an external token server its tokens are read, and only those; passwords and
// keys go on.
func TestExternal(t *testing.T) {
	t.Parallel()
	server := newWorld(t, nil)
	keys, err := json.Marshal(server.tokens.JWKS())
	ok(t, err)
	path := filepath.Join(t.TempDir(), "jwks.json")
	ok(t, os.WriteFile(path, keys, 0o600))
	w := newWorld(t, func(w *world, o *gate.Options) {
		o.External, err = tokens.NewExternal(tokens.ExternalOptions{
			Realm: "https://tokens.test/auth", Service: service, Issuer: service, JWKS: path, Now: w.now,
		})
		ok(t, err)
	})
	const want = `Bearer realm="https://tokens.test/auth",service="registry.test"`
	if r := w.get("/v2/", ""); r.header.Get("WWW-Authenticate") != want {
		t.Errorf("challenge %s, want %s", r.header.Get("WWW-Authenticate"), want)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if r := w.do(w.request(method, "/token", nil)); r.status != http.StatusNotFound {
			t.Errorf("%s /token: status %d: want 404", method, r.status)
		}
	}
	token, err := server.tokens.Issue(&auth.Identity{Account: "zoe"}, []auth.Grant{{Repos: "team/a", Actions: auth.Pull}})
	ok(t, err)
	for range 2 {
		who := w.get("/v2/", "Bearer "+token.Text).told(t)
		if who.Account != "zoe" || !slices.Equal(who.Grants, []auth.Grant{{Repos: "team/a", Actions: auth.Pull}}) {
			t.Errorf("got %+v", who)
		}
	}
	own, err := w.tokens.Issue(&auth.Identity{Account: "alice"}, nil)
	ok(t, err)
	for name, text := range map[string]string{"own": own.Text, "tampered": token.Text[:len(token.Text)-6] + "AAAAAA"} {
		r := w.get("/v2/", "Bearer "+text)
		if c := r.header.Get("WWW-Authenticate"); r.status != http.StatusUnauthorized || c != want+`,error="invalid_token"` {
			t.Errorf("%s: status %d, challenge %s", name, r.status, c)
		}
	}
	_, key := w.key(accounts.NewKey{Account: "robot"})
	w.get("/v2/", "Bearer "+key).told(t)
	w.get("/v2/", basic("alice", alicePass)).told(t)
	w.pass(time.Hour)
	if r := w.get("/v2/", "Bearer "+token.Text); r.status != http.StatusUnauthorized {
		t.Errorf("expired: status %d", r.status)
	}
}

func TestRealm(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]gate.Options{
		`Bearer realm="https://proxy.test/berth/token",service="x y"`: {Base: func(*http.Request) string { return "https://proxy.test/berth" }, Service: "x y"},
		`Bearer realm="https://elsewhere.test/t",service="x"`:         {Realm: "https://elsewhere.test/t", Service: "x"},
		`Basic realm="x",charset="UTF-8"`:                             {Basic: true, Service: "x"},
		`Basic realm="registry",charset="UTF-8"`:                      {Basic: true},
	} {
		w := newWorld(t, func(_ *world, all *gate.Options) {
			all.Base, all.Realm, all.Service, all.Basic = o.Base, o.Realm, o.Service, o.Basic
		})
		if got := w.get("/v2/", "").header.Get("WWW-Authenticate"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	// Without an authority nothing is granted, and without tokens one signs in by
	// Basic.
	w := newWorld(t, func(_ *world, o *gate.Options) { o.Authority = nil })
	if g := w.grants(w.token(basic("alice", alicePass), "repository:public/a:pull", "registry:catalog:*")); len(g) != 0 {
		t.Errorf("granted %v", g)
	}
	w = newWorld(t, func(_ *world, o *gate.Options) { o.Tokens = nil })
	if c := w.get("/v2/", "").header.Get("WWW-Authenticate"); !strings.HasPrefix(c, "Basic ") {
		t.Errorf("challenge %s", c)
	}
	if r := w.get("/v2/", "Bearer eyJh.eyJh.abc"); r.status != http.StatusUnauthorized {
		t.Errorf("a token: status %d", r.status)
	}
}
