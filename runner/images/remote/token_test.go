package remote

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// tokenService signs tokens that Docker's registry takes. It knows user with the
// password secret, whose identity token is "identity", and lets everybody pull
// from public.
type tokenService struct {
	*fake
	ca *authority
}

func newTokenService(t *testing.T) *tokenService {
	t.Helper()
	s := &tokenService{ca: newAuthority(t)}
	s.fake = newFake(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		name, password, given := r.BasicAuth()
		switch {
		case r.Form.Get("grant_type") == "refresh_token":
			name, password, given = "user", map[string]string{"identity": "secret"}[r.Form.Get("refresh_token")], true
		case r.Form.Get("grant_type") == "password":
			name, password, given = r.Form.Get("username"), r.Form.Get("password"), true
		}
		if given && name+":"+password != "user:secret" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprint(w, `{"details":"incorrect username or password"}`)
			return
		}
		answer := map[string]any{"token": s.sign(t, r.Form["scope"], given), "expires_in": 300}
		answer["access_token"] = answer["token"]
		if r.Form.Get("offline_token") == "true" || r.Form.Get("access_type") == "offline" {
			answer["refresh_token"] = "identity"
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	return s
}

// sign grants what is asked for: all to the user, to others the public.
func (s *tokenService) sign(t *testing.T, scopes []string, user bool) string {
	t.Helper()
	access := []map[string]any{}
	for scope := range strings.FieldsSeq(strings.Join(scopes, " ")) {
		parts := strings.Split(scope, ":")
		actions := strings.Split(parts[2], ",")
		if !user && parts[1] == "public" {
			actions = []string{"pull"}
		}
		if user || parts[1] == "public" {
			access = append(access, map[string]any{"type": parts[0], "name": parts[1], "actions": actions})
		}
	}
	header := map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.ca.cert.Raw)}}
	claims := map[string]any{
		"iss": "tests", "sub": "user", "aud": "the registry", "access": access, "jti": fmt.Sprint(time.Now().UnixNano()),
		"exp": time.Now().Add(5 * time.Minute).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(), "iat": time.Now().Unix(),
	}
	encode := func(v any) string {
		return base64.RawURLEncoding.EncodeToString(must[[]byte](t)(json.Marshal(v)))
	}
	text := encode(header) + "." + encode(claims)
	hash := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.ca.key, hash[:])
	if err != nil {
		t.Error(err)
		return ""
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	v.FillBytes(sig[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// registry is Docker's registry that trusts the service.
func (s *tokenService) registry(t *testing.T) registryServer {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "roots.pem")
	write(t, bundle, s.ca.PEM)
	return distribution(t, "REGISTRY_AUTH=token", "REGISTRY_AUTH_TOKEN_REALM="+s.URL+"/token", "REGISTRY_AUTH_TOKEN_SERVICE=the registry",
		"REGISTRY_AUTH_TOKEN_ISSUER=tests", "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE="+bundle)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	service := newTokenService(t)
	s := service.registry(t)
	c := client(t, Options{})
	var src contents
	image := src.image(t, 1000, 1<<20)
	public, private := named(t, s.localhost()+"/public"), named(t, s.localhost()+"/private")

	resp, err := c.Login(t.Context(), registry.AuthConfig{ServerAddress: "http://" + s.localhost() + "/", Username: "user", Password: "secret"})
	if err != nil || resp.Status != "Login Succeeded" || resp.IdentityToken != "identity" {
		t.Errorf("login: %+v, %v", resp, err)
	}
	_, err = c.Login(t.Context(), registry.AuthConfig{ServerAddress: s.localhost(), Username: "user", Password: "wrong"})
	wantError(t, err, runner.ErrUnauthorized, `Get "http://`+s.localhost()+`/v2/": unauthorized: incorrect username or password`)

	identity := &registry.AuthConfig{IdentityToken: "identity"}
	for _, r := range []*Repo{c.Repository(public, user("secret")), c.Repository(private, identity)} {
		if _, err := r.Push(t.Context(), "v1", image, &src, nil); err != nil {
			t.Fatal(err)
		}
		src.check(t, r, image.Blobs...)
	}
	src.check(t, c.Repository(public, nil), image.Manifest, image.Blobs[1])
	_, err = c.Repository(private, nil).Resolve(t.Context(), "v1")
	wantError(t, err, runner.ErrNotFound, "pull access denied for "+private.Name()+", repository does not exist or may require 'docker login': denied: requested access to the resource is denied")
	_, err = c.Repository(public, nil).Push(t.Context(), "v2", src.image(t, 10), &src, nil)
	wantError(t, err, runner.ErrUnauthorized, "denied: requested access to the resource is denied")
	_, err = c.Repository(private, user("wrong")).Resolve(t.Context(), "v1")
	wantError(t, err, runner.ErrUnauthorized, "unauthorized: ")

	token := service.sign(t, []string{"repository:private:pull"}, true)
	if _, err := c.Repository(private, &registry.AuthConfig{RegistryToken: token}).Resolve(t.Context(), "v1"); err != nil {
		t.Errorf("with a token of the registry: %v", err)
	}

	// A blob of a private repository is not mounted into one's own without leave;
	// it is then uploaded.
	image.MountFrom = map[digest.Digest][]string{image.Blobs[1].Digest: {"private"}}
	var said messages
	if _, err := c.Repository(named(t, s.localhost()+"/mine"), identity).Push(t.Context(), "v1", image, &src, said.progress()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.text(), "Mounted from private") {
		t.Errorf("not mounted:\n%s", said.text())
	}
}

// TestExpiredToken fetches another token when one is refused, once.
func TestExpiredToken(t *testing.T) {
	t.Parallel()
	var tokens, valid atomic.Int32
	var f *fake
	f = newFake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			fmt.Fprintf(w, `{"token":"t%d"}`, tokens.Add(1))
			return
		}
		if r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", valid.Load()) {
			w.Header().Add("WWW-Authenticate", "Negotiate")
			w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
			w.Header().Add("WWW-Authenticate", `Bearer realm="`+f.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		_, _ = fmt.Fprint(w, "{}")
	})
	r := f.repo(t, Options{})
	for n := range int32(3) {
		valid.Store(n + 1) // and the one before no more
		if _, err := r.Resolve(t.Context(), "v1"); err != nil {
			t.Fatalf("token %d: %v\n%s", n+1, err, f.requests())
		}
	}
	if n := tokens.Load(); n != 3 {
		t.Errorf("%d tokens were fetched", n)
	}
	valid.Store(-1)
	_, err := r.Resolve(t.Context(), "v1")
	wantError(t, err, runner.ErrUnauthorized, "unauthorized: authentication required")
	if n := tokens.Load(); n > 5 { // for HEAD and for GET
		t.Errorf("%d tokens were fetched", n)
	}
}

// TestOAuth logs in where the token service knows no GET.
func TestOAuth(t *testing.T) {
	t.Parallel()
	var f *fake
	f = newFake(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		switch {
		case r.URL.Path == "/token" && r.Method == http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case r.URL.Path == "/token" && r.Form.Get("password") == "secret" && r.Form.Get("access_type") == "offline":
			_, _ = fmt.Fprint(w, `{"access_token":"good","refresh_token":"identity"}`)
		case r.URL.Path == "/token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	c := client(t, Options{})
	login := registry.AuthConfig{ServerAddress: f.addr(), Username: "user", Password: "secret"}
	if resp, err := c.Login(t.Context(), login); err != nil || resp.IdentityToken != "identity" {
		t.Errorf("got %+v, %v\n%s", resp, err, f.requests())
	}
	login.Password = "wrong"
	_, err := c.Login(t.Context(), login)
	wantError(t, err, runner.ErrUnauthorized, `Get "http://`+f.addr()+`/v2/": unauthorized: authentication required`)
}

// TestRealm refuses to take credentials to an address of this host for a registry
// that is elsewhere.
func TestRealm(t *testing.T) {
	t.Parallel()
	service := newTokenService(t)
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+service.URL+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	c := client(t, Options{Hosts: map[string]Host{"registry.test": {Endpoint: f.URL}}})
	s := must[*server](t)(c.registry("registry.test", ""))
	s.local = false // as if it were reached by a public address
	cred, err := credential(user("secret"))
	if err != nil {
		t.Fatal(err)
	}
	// The realm's host must not be the registry's own.
	s.host = strings.Replace(s.host, "127.0.0.1", "localhost", 1)
	_, err = c.session(s, cred).resolve(t.Context(), "app", "v1")
	wantError(t, err, nil, "in blocked prefix")
	if service.count("") != 0 {
		t.Errorf("the token service has got:\n%s", service.requests())
	}
}
