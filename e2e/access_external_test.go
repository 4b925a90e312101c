package e2e

import (
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// tokenServer is a token server of somebody else: a key, and the file of its public
// keys.
type tokenServer struct {
	forger
	file string
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	s := &tokenServer{forger{t: t}, filepath.Join(t.TempDir(), "jwks.json")}
	s.rotate()
	return s
}

// rotate makes another key, and none of the old ones is in the file any more.
func (s *tokenServer) rotate() {
	s.t.Helper()
	s.key, s.kid = newSigningKey(s.t), rand.Text()
	s.publish(s.kid, s.key)
}

func (s *tokenServer) publish(kid string, key *ecdsa.PrivateKey) {
	s.t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: kid, Algorithm: "ES256", Use: "sig"}}}
	if err := os.WriteFile(s.file, mustJSON(set), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// claims are those of a token for "NAME:ACTION,...".
func (s *tokenServer) claims(access ...string) map[string]any {
	now, list := time.Now().Unix(), []map[string]any{}
	for _, a := range access {
		name, actions, _ := strings.Cut(a, ":")
		kind := "repository"
		if name == "catalog" {
			kind = "registry"
		}
		list = append(list, map[string]any{"type": kind, "name": name, "actions": strings.Split(actions, ",")})
	}
	return map[string]any{
		"iss": "tokens.test", "aud": "registry.test", "sub": "somebody", "iat": now, "nbf": now, "exp": now + 300, "jti": rand.Text(), "access": list,
	}
}

// TestAccessExternal has another token server decide who may do what: what its tokens
// say holds, and policy is not asked.
func TestAccessExternal(t *testing.T) {
	t.Parallel()
	s := newTokenServer(t)
	config := fmt.Sprintf("auth: {external: {realm: %q, service: registry.test, issuer: tokens.test, jwks: %s}}", "https://tokens.test/auth", s.file)
	g := startGuarded(t, berthtest.Options{}, config, `- {who: [somebody], repos: ["**"], may_not: [pull, push, delete, admin]}`)
	g.form(nil) // there is a login in the audit log: of the test itself
	f := &matrixFixture{g: g, blob: []byte("{}")}
	d := digest.FromBytes(f.blob).String()
	use := func(access ...string) []string { return g.bearer(s.good(s.claims(access...))) }

	pusher := use("team/web:pull,push", "other/app:pull")
	g.send(pusher, http.StatusCreated, "POST", "/v2/team/web/blobs/uploads/?digest="+d, f.blob)
	g.send(append([]string{"Content-Type", ociManifest}, pusher...), http.StatusCreated, "PUT", "/v2/team/web/manifests/v1", imageManifest(f.blob))
	g.send(pusher, http.StatusForbidden, "POST", "/api/v1/users", []byte("{}"))
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
		scope              string // asked for
	}{
		{"pull", "GET", "team/web/manifests/v1", use("team/web:pull"), 200, ""},
		{"pull by *", "GET", "team/web/manifests/v1", use("team/web:*"), 200, ""},
		{"tags", "GET", "team/web/tags/list", use("team/web:pull"), 200, ""},
		{"delete by *", "DELETE", "team/web/manifests/none", use("team/web:*"), 404, ""},
		{"nothing", "GET", "team/web/manifests/v1", use(), 401, "repository:team/web:pull"},
		{"another repository", "GET", "team/web/manifests/v1", use("team/api:pull,push"), 401, "repository:team/web:pull"},
		{"a pattern", "GET", "team/web/manifests/v1", use("team/**:pull", "**:pull", "team/*:pull"), 401, "repository:team/web:pull"},
		{"another case", "GET", "team/web/manifests/v1", use("Team/Web:pull"), 401, "repository:team/web:pull"},
		{"push alone", "GET", "team/web/manifests/v1", use("team/web:push"), 401, "repository:team/web:pull"},
		{"pull alone", "POST", "team/web/blobs/uploads/", use("team/web:pull"), 401, "repository:team/web:pull,push"},
		{"delete", "DELETE", "team/web/manifests/v1", use("team/web:pull,push"), 401, "repository:team/web:delete"},
		{"catalog", "GET", "_catalog", use("catalog:*"), 200, ""},
		{"no catalog", "GET", "_catalog", use("catalog:pull"), 401, "registry:catalog:*"},
		{"nobody", "GET", "team/web/manifests/v1", nil, 401, "repository:team/web:pull"},
		{"nobody at the base", "GET", "", nil, 401, ""},
		{"somebody at the base", "GET", "", use(), 200, ""},
		{"password", "GET", "team/web/manifests/v1", g.root, 200, ""}, // it is an account of the registry's own
	} {
		a := must(g.wire.do(c.method, "/v2/"+c.path, nil, c.header...))(t)
		if a.status != c.status {
			t.Errorf("%s: %s: want %d", c.name, a, c.status)
		}
		challenge := a.header.Get("WWW-Authenticate")
		if a.status == http.StatusUnauthorized && !strings.HasPrefix(challenge, `Bearer realm="https://tokens.test/auth",service="registry.test"`) ||
			c.scope != "" && !strings.Contains(challenge, `,scope="`+c.scope+`"`) {
			t.Errorf("%s: challenge %q", c.name, challenge)
		}
	}
	g.send(nil, http.StatusNotFound, "GET", "/token?service=registry.test", nil)

	good := s.good(s.claims("team/web:pull"))
	claims := claimsOf(t, good)
	names := []string{}
	for name, token := range s.foreign(claims) {
		names = append(names, name)
		if a := must(g.wire.do("GET", "/v2/team/web/manifests/v1", nil, g.bearer(token)...))(t); a.status != http.StatusUnauthorized {
			t.Errorf("%s: %s", name, a)
		}
	}
	if !slices.Contains(names, "HS256 by the public key") {
		t.Error("nothing was forged")
	}

	// Keys change while the server runs; a file that is half written changes nothing.
	if err := os.WriteFile(s.file, []byte(`{"keys":[{"kty":"EC",`), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "word of the bad key set", func() bool { return strings.Contains(g.Log(), "key set of the external token server is bad") })
	g.send(g.bearer(good), http.StatusOK, "GET", "/v2/team/web/manifests/v1", nil)
	s.rotate()
	next := g.bearer(s.good(s.claims("team/web:pull")))
	waitFor(t, "new key", func() bool {
		return must(g.wire.do("GET", "/v2/team/web/manifests/v1", nil, next...))(t).status == http.StatusOK
	})
	if a := must(g.wire.do("GET", "/v2/team/web/manifests/v1", nil, g.bearer(s.signedBefore(claims))...))(t); a.status != http.StatusUnauthorized {
		t.Errorf("a token by a key that nobody has published: %s", a)
	}
}

// signedBefore is signed by a key that was never in the file.
func (s *tokenServer) signedBefore(claims map[string]any) string {
	s.t.Helper()
	return s.sign(jose.ES256, newSigningKey(s.t), map[string]any{"typ": "JWT", "kid": s.kid}, claims)
}

// foreign are tokens that are not good, though most of them are of the token server.
func (s *tokenServer) foreign(claims map[string]any) map[string]string {
	s.t.Helper()
	all := s.tokens(s.good(with(claims, "berth", map[string]any{"source": "accounts"})))
	for _, name := range []string{
		"token of no source", "token of another account", "token of an old password", "token of a source unheard", "token of a key unheard", // claims that say nothing here
		"token in another token", "token by a key without id", "token of another kind", "token for ever",
	} {
		delete(all, name)
	}
	return all
}
