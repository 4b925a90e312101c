package gate_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
	orasauth "oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/fs"
)

// registryWorld is a world with a real registry that policy restricts. It tells
// the requests for tokens, without what identifies anybody.
func registryWorld(t *testing.T) (*world, func() []string) {
	t.Helper()
	w := newWorld(t, nil)
	w.server.Close()
	log := slog.New(slog.NewTextHandler(&w.logs, nil))
	blobs, err := fs.Open(filepath.Join(t.TempDir(), "blobs"), log)
	ok(t, err)
	t.Cleanup(func() { ok(t, blobs.Close()) })
	local, err := registry.NewLocal(t.Context(), blobs, w.meta, registry.Options{Log: log})
	ok(t, err)
	t.Cleanup(local.Close)
	var mu sync.Mutex
	var seen []string
	mux := http.NewServeMux()
	mux.Handle("/token", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		kind := "anonymous"
		if r.Header.Get("Authorization") != "" {
			kind = "basic"
		}
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			form, _ := url.ParseQuery(string(body))
			kind = form.Get("grant_type")
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		mu.Lock()
		seen = append(seen, r.Method+" "+kind)
		mu.Unlock()
		w.gate.TokenHandler().ServeHTTP(rw, r)
	}))
	server := registry.NewServer(auth.Restrict(local, w.policy, nil), registry.ServerOptions{Log: log})
	mux.Handle("/", w.gate.Handler(server))
	w.serve(mux)
	return w, func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { seen = nil }()
		return seen
	}
}

// oras-go is what Helm, ORAS and our own clients use.
func TestOras(t *testing.T) {
	t.Parallel()
	w, requests := registryWorld(t)
	host := strings.TrimPrefix(w.server.URL, "https://")
	client := func(cred orasauth.Credential, oauth bool) *orasauth.Client {
		return &orasauth.Client{
			Client: w.server.Client(), Cache: orasauth.NewCache(), ForceAttemptOAuth2: oauth, BlockedRealmPrefixes: []netip.Prefix{},
			Credential: func(context.Context, string) (orasauth.Credential, error) { return cred, nil },
		}
	}
	repository := func(name string, c *orasauth.Client) *remote.Repository {
		r, err := remote.NewRepository(host + "/" + name)
		ok(t, err)
		r.Client = c
		return r
	}
	_, key := w.key(accounts.NewKey{Account: "robot"})
	refresh := w.get("/token?offline_token=true&service="+service, basic("alice", alicePass)).field(t, "refresh_token")
	requests()
	for name, c := range map[string]struct {
		cred  orasauth.Credential
		oauth bool
		want  string
	}{
		"password":       {orasauth.Credential{Username: "alice", Password: alicePass}, false, "GET basic"},
		"password grant": {orasauth.Credential{Username: "alice", Password: alicePass}, true, "POST password"},
		"key":            {orasauth.Credential{Username: "token", Password: key}, false, "GET basic"},
		"refresh token":  {orasauth.Credential{RefreshToken: refresh}, false, "POST refresh_token"},
		"bearer key":     {orasauth.Credential{AccessToken: key}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			repo := repository("team/app", client(c.cred, c.oauth))
			desc, err := oras.PushBytes(t.Context(), repo, ocispec.MediaTypeImageLayer, []byte("layer of "+name))
			ok(t, err)
			m, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "test/"+strings.ReplaceAll(name, " ", "-"), oras.PackManifestOptions{Layers: []ocispec.Descriptor{desc}})
			ok(t, err)
			ok(t, repo.Tag(t.Context(), m, "v1"))
			got, err := content.FetchAll(t.Context(), repo.Blobs(), desc)
			ok(t, err)
			if string(got) != "layer of "+name {
				t.Errorf("got %q", got)
			}
			for _, r := range requests() {
				if r != c.want {
					t.Errorf("asked for a token by %q: want %q", r, c.want)
				}
			}
		})
	}
	anonymous := repository("team/app", client(orasauth.EmptyCredential, false))
	if _, err := anonymous.Resolve(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("anonymous: %v: want a 401", err)
	}
	if r := requests(); len(r) == 0 || r[0] != "GET anonymous" {
		t.Errorf("asked for tokens by %v", r)
	}
	wrong := repository("team/app", client(orasauth.Credential{Username: "alice", Password: "wrong"}, false))
	if _, err := wrong.Resolve(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("wrong password: %v: want a 401", err)
	}
}

// containerd asks by POST, and if that is refused with 400, 401, 404 or 405 by GET
// (core/remotes/docker, authorizer.go). Kubernetes, nerdctl and BuildKit do so.
func TestContainerd(t *testing.T) {
	t.Parallel()
	w, requests := registryWorld(t)
	start := w.request(http.MethodPost, "/v2/team/app/blobs/uploads/", nil)
	r := w.do(start)
	_, scope, _ := strings.Cut(r.header.Get("WWW-Authenticate"), `scope="`)
	if scope = strings.TrimSuffix(scope, `"`); r.status != http.StatusUnauthorized || scope != "repository:team/app:pull,push" {
		t.Fatalf("status %d, challenge %s", r.status, r.header.Get("WWW-Authenticate"))
	}
	try := func(user, secret string) (status int, refresh string) {
		t.Helper()
		form := url.Values{"scope": {scope}, "service": {service}, "client_id": {"containerd-client"}}
		query := url.Values{"scope": strings.Split(scope, " "), "service": {service}, "offline_token": {"true"}}
		authorization := ""
		switch {
		case user != "":
			form["grant_type"], form["username"], form["password"] = []string{"password"}, []string{user}, []string{secret}
			form["access_type"] = []string{"offline"}
			authorization = basic(user, secret)
		case secret != "":
			form["grant_type"], form["refresh_token"] = []string{"refresh_token"}, []string{secret}
			authorization = basic("", secret)
		}
		r := reply{status: http.StatusUnauthorized}
		if secret != "" {
			r = w.post(form)
		}
		if r.status == http.StatusUnauthorized {
			r = w.get("/token?"+query.Encode(), authorization)
		}
		if r.status != http.StatusOK {
			return r.status, ""
		}
		push := w.request(http.MethodPost, "/v2/team/app/blobs/uploads/", nil)
		push.Header.Set("Authorization", "Bearer "+r.field(t, "access_token"))
		return w.do(push).status, r.field(t, "refresh_token")
	}
	requests()
	_, refresh := try("alice", alicePass)
	for _, c := range []struct {
		user, secret string
		status       int
		how          []string
	}{
		{"alice", alicePass, http.StatusAccepted, []string{"POST password"}},
		{"", refresh, http.StatusAccepted, []string{"POST refresh_token"}},
		{"alice", "wrong", http.StatusUnauthorized, []string{"POST password", "GET basic"}},
		{"", "wrong", http.StatusUnauthorized, []string{"POST refresh_token", "GET basic"}},
		{"", "", http.StatusUnauthorized, []string{"GET anonymous"}},
	} {
		requests()
		if status, _ := try(c.user, c.secret); status != c.status {
			t.Errorf("%s %s: status %d, want %d", c.user, c.secret, status, c.status)
		}
		if how := requests(); !slices.Equal(how, c.how) {
			t.Errorf("%s %s: by %v, want %v", c.user, c.secret, how, c.how)
		}
	}
}

// Docker's engine signs in by GET and asks for a refresh token, with which it gets
// its tokens by POST from then on (distribution's registry/client/auth, session.go).
func TestDocker(t *testing.T) {
	t.Parallel()
	w, _ := registryWorld(t)
	ping := w.get("/v2/", "")
	c := ping.header.Get("WWW-Authenticate")
	realm, _, _ := strings.Cut(strings.TrimPrefix(c, `Bearer realm="`), `"`)
	if ping.status != http.StatusUnauthorized || realm != w.server.URL+"/token" || !strings.Contains(c, `service="registry.test"`) {
		t.Fatalf("ping: status %d, challenge %s", ping.status, c)
	}
	login := "/token?account=alice&client_id=docker&offline_token=true&service=" + service
	if r := w.get(login, basic("alice", "wrong")); r.status != http.StatusUnauthorized || !strings.Contains(string(r.body), `{"errors":[{"code":"UNAUTHORIZED","message":"no such account, or wrong password"}]}`) {
		t.Errorf("wrong password: status %d, body %s", r.status, r.body)
	}
	in := w.get(login, basic("alice", alicePass))
	if r := w.get("/v2/", "Bearer "+in.field(t, "token")); r.status != http.StatusOK {
		t.Fatalf("login: status %d, body %s", r.status, r.body)
	}
	identity := in.field(t, "refresh_token")
	form := url.Values{
		"scope": {"repository:team/app:pull,push"}, "service": {service}, "client_id": {"docker"},
		"grant_type": {"refresh_token"}, "refresh_token": {identity},
	}
	r := w.post(form)
	push := w.request(http.MethodPost, "/v2/team/app/blobs/uploads/", nil)
	push.Header.Set("Authorization", "Bearer "+r.field(t, "access_token"))
	if r := w.do(push); r.status != http.StatusAccepted {
		t.Fatalf("push: status %d, body %s", r.status, r.body)
	}
	// Another repository needs another token, as the answer says.
	push.URL.Path = "/v2/team/other/blobs/uploads/"
	r = w.do(push)
	c = r.header.Get("WWW-Authenticate")
	if r.status != http.StatusUnauthorized || !strings.Contains(c, `scope="repository:team/other:pull,push"`) || !strings.Contains(c, `error="insufficient_scope"`) {
		t.Errorf("other repository: status %d, challenge %s", r.status, c)
	}
	// Keys are rotated without logging anyone out.
	ok(t, w.tokens.Rotate(t.Context()))
	if r := w.post(form); r.status != http.StatusOK {
		t.Errorf("after a rotation: status %d", r.status)
	}
	w.pass(24 * time.Hour)
	if r := w.post(form); r.status != http.StatusOK {
		t.Errorf("a day later: status %d", r.status)
	}
	// docker logout forgets the token; the registry can, too.
	_, err := w.tokens.RevokeRefresh(t.Context(), "alice")
	ok(t, err)
	if r := w.post(form); r.status != http.StatusUnauthorized {
		t.Errorf("revoked: status %d", r.status)
	}
}
