package gate_test

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/registry"
)

// Every kind of credentials is told by who they are, over HTTP.
func TestRightCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id, key := w.key(accounts.NewKey{Account: "robot", Grants: []auth.Grant{{Repos: "team/*", Actions: auth.Pull}}})
	hatID, hatKey := w.key(accounts.NewKey{Account: "hatter", Source: "htpasswd"})
	job := w.jobs.idToken(t, "acme/web", time.Now().Add(time.Hour))
	aliceToken := w.token(basic("alice", alicePass), "repository:team/web:pull,push,delete")
	for _, c := range []struct {
		name, authorization string
		want                told
	}{
		{"nothing", "", told{}},
		{"password of the first source", basic("hatter", htPass), told{Account: "hatter", Source: "htpasswd"}},
		{"password of the second source", basic("alice", alicePass), told{Account: "alice", Source: "accounts", Groups: []string{"devs"}}},
		{"scheme in capitals", "BASIC " + basic("hatter", htPass)[6:], told{Account: "hatter", Source: "htpasswd"}},
		{"key as its owner", basic("robot", key), told{Account: "robot", Source: "accounts", Key: id}},
		{"key as token", basic("token", key), told{Account: "robot", Source: "accounts", Key: id}},
		{"key as bearer", "Bearer " + key, told{Account: "robot", Source: "accounts", Key: id}},
		{"key of another source's account", "bearer " + hatKey, told{Account: "hatter", Source: "htpasswd", Key: hatID}},
		{"ID token as password", basic("ci", job), told{Account: "ci/acme/web", Source: "workload", Groups: []string{"jobs"}}},
		{"registry token", "Bearer " + aliceToken, told{Account: "alice", Source: "accounts", Groups: []string{"devs"}, Scoped: true}},
		{"anonymous token", "Bearer " + w.token("", "repository:public/x:pull"), told{Scoped: true}},
		{"token got with a key", "Bearer " + w.token(basic("token", key)), told{Account: "robot", Source: "accounts", Key: id, Scoped: true}},
		{"token got with a key as bearer", "Bearer " + w.token("Bearer "+key), told{Account: "robot", Source: "accounts", Key: id, Scoped: true}},
		{"token of a job", "Bearer " + w.token(basic("x", job)), told{Account: "ci/acme/web", Source: "workload", Groups: []string{"jobs"}, Scoped: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, path := range []string{"/v2/team/web/manifests/v1", "/api/accounts"} {
				for range 2 { // the second time from memory
					who := w.get(path, c.authorization).told(t)
					if who.Account != c.want.Account || who.Source != c.want.Source || who.Key != c.want.Key ||
						!slices.Equal(who.Groups, c.want.Groups) || who.Scoped != c.want.Scoped {
						t.Errorf("%s: got %+v, want %+v", path, who, c.want)
					}
					if who.Client != "127.0.0.1" || who.Request == "" {
						t.Errorf("client %q, request %q", who.Client, who.Request)
					}
				}
			}
			if r := w.get("/v2/", c.authorization); (r.status == http.StatusOK) != (c.authorization != "") {
				t.Errorf("/v2/: status %d", r.status)
			}
		})
	}
	grants := w.get("/", "Bearer "+aliceToken).told(t).Grants
	if want := []auth.Grant{{Repos: "team/web", Actions: auth.Pull | auth.Push}}; !slices.Equal(grants, want) {
		t.Errorf("grants of the token are %v: want %v", grants, want)
	}
}

func TestWrongCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	_, key := w.key(accounts.NewKey{Account: "robot"})
	late := w.jobs.idToken(t, "acme/web", time.Now().Add(-time.Hour))
	foreign := newPlatform(t).idToken(t, "acme/web", time.Now().Add(time.Hour))
	other := newWorld(t, nil)
	stranger := other.token("")
	token := w.token(basic("alice", alicePass))
	long := strings.Repeat("x", 2000)
	var next atomic.Int64
	for name, authorization := range map[string]string{
		"wrong password":             basic("alice", htPass),
		"password of another source": basic("hatter", alicePass),
		"no such account":            basic("nobody", htPass),
		"no account":                 basic("", htPass),
		"no password":                basic("alice", ""),
		"long password":              basic("alice", alicePass+long),
		"long account":               basic(long, alicePass),
		"case":                       basic("Alice", alicePass),
		"robot with a password":      basic("robot", htPass),
		"key of another account":     basic("alice", key),
		"wrong key":                  basic("robot", key[:len(key)-4]+"aaaa"),
		"wrong bearer key":           "Bearer " + key[:len(key)-4] + "aaaa",
		"key with more":              "Bearer " + key + "a",
		"expired ID token":           basic("ci", late),
		"ID token of another issuer": basic("ci", foreign),
		"ID token that matches none": basic("ci", w.jobs.idToken(t, "evil/web", time.Now().Add(time.Hour))),
		"ID token as bearer":         "Bearer " + w.jobs.idToken(t, "acme/web", time.Now().Add(time.Hour)),
		"token of another registry":  "Bearer " + stranger,
		"tampered token":             "Bearer " + token[:len(token)-8] + "AAAAAAAA",
		"token without signature":    "Bearer " + token[:strings.LastIndexByte(token, '.')+1],
		"no token":                   "Bearer nonsense",
		"empty bearer":               "Bearer",
		"unknown scheme":             "Digest username=alice",
		"no scheme":                  "alice",
		"no base64":                  "Basic ====",
		"base64url":                  "Basic " + strings.ReplaceAll(basic("alice", "\xfb\xff?")[6:], "+", "-"),
		"no colon":                   "Basic YWxpY2U=",
		"control character":          basic("alice", "a\x00b"),
		"not UTF-8":                  basic("alice", "\xff\xfe"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.clientAt(fmt.Sprintf("127.0.1.%d", next.Add(1)))
			for _, path := range []string{"/v2/", "/v2/team/web/manifests/v1", "/api/accounts", "/token"} {
				req := w.request(http.MethodGet, path, nil)
				req.Header.Set("Authorization", authorization)
				r := w.doWith(c, req)
				if r.status != http.StatusUnauthorized || r.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s: status %d, header %v, body %s: want 401", path, r.status, r.header, r.body)
				}
				if !strings.Contains(string(r.body), `{"code":"`) {
					t.Errorf("%s: body %s is not the registry's", path, r.body)
				}
			}
		})
	}
}

// Jobs that share an address, and the name "token", do not share their failures.
func TestKeysAreGuessedOneByOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var group sync.WaitGroup
	for i := range 8 {
		_, key := w.key(accounts.NewKey{Account: "robot"})
		bad := basic("token", key[:len(key)-4]+"aaaa")
		group.Go(func() {
			if r := w.get("/v2/", bad); r.status != http.StatusUnauthorized {
				t.Errorf("wrong key %d: status %d", i, r.status)
			}
		})
	}
	group.Wait()
	_, key := w.key(accounts.NewKey{Account: "robot"})
	if r := w.get("/v2/", basic("token", key)); r.status != http.StatusOK {
		t.Errorf("right key: status %d", r.status)
	}
}

// Nothing of an answer tells whether there is such an account.
func TestSameText(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var want reply
	for i, a := range []string{basic("alice", "wrong"), basic("nobody", "wrong"), basic("hatter", "wrong"), basic("robot", "wrong")} {
		r := w.get("/v2/", a)
		r.header.Del("X-Request-Id")
		r.header.Del("Date")
		if i == 0 {
			want = r
			continue
		}
		if r.status != want.status || !bytes.Equal(r.body, want.body) || len(r.header) != len(want.header) {
			t.Errorf("got %v, want %v", r, want)
		}
	}
}

func TestSeveralHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	req := w.request(http.MethodGet, "/v2/", nil)
	req.Header["Authorization"] = []string{basic("alice", alicePass), basic("hatter", htPass)}
	if r := w.do(req); r.status != http.StatusBadRequest {
		t.Errorf("status %d: want 400", r.status)
	}
	req.Header["Authorization"] = []string{"Bearer " + strings.Repeat("x", 40<<10)}
	if r := w.do(req); r.status != http.StatusBadRequest {
		t.Errorf("huge: status %d: want 400", r.status)
	}
}

// What has been proved and is in memory ends at once when its source says so.
func TestRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx := t.Context()
	id, key := w.key(accounts.NewKey{Account: "robot"})
	short, shortKey := w.key(accounts.NewKey{Account: "robot", Expires: w.now().Add(time.Hour)})
	_ = short
	refused := func(what, authorization string) {
		t.Helper()
		if r := w.get("/api/", authorization); r.status != http.StatusUnauthorized {
			t.Errorf("%s: status %d: want 401", what, r.status)
		}
	}
	alice, token := basic("alice", alicePass), "Bearer "+w.token(basic("alice", alicePass))
	keyToken := "Bearer " + w.token(basic("token", key))
	for _, a := range []string{alice, token, keyToken, "Bearer " + key, basic("token", shortKey)} {
		w.get("/api/", a).told(t)
	}

	w.pass(2 * time.Hour)
	refused("token that has expired", token)
	refused("key that has expired", basic("token", shortKey))
	w.pass(-2 * time.Hour)

	w.get("/api/", keyToken).told(t)
	_, err := w.store.RevokeKey(ctx, id)
	ok(t, err)
	refused("revoked key", "Bearer "+key)
	refused("token of a revoked key", keyToken)

	token = "Bearer " + w.token(alice)
	w.get("/api/", token).told(t)
	ok(t, w.store.SetPassword(ctx, "alice", "another password"))
	refused("old password", alice)
	refused("token of the old password", token)

	alice = basic("alice", "another password")
	token = "Bearer " + w.token(alice)
	w.get("/api/", token).told(t)
	ok(t, w.store.Remove(ctx, "alice"))
	refused("removed account", alice)
	refused("token of a removed account", token)
}

func TestExpiredTokenSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	token := "Bearer " + w.token(basic("alice", alicePass))
	w.pass(time.Hour)
	r := w.get("/v2/team/web/tags/list", token)
	if c := r.header.Get("WWW-Authenticate"); r.status != http.StatusUnauthorized || !strings.Contains(c, `error="invalid_token"`) {
		t.Errorf("status %d, challenge %s", r.status, c)
	}
}

func TestChallenges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	realm := `Bearer realm="` + w.server.URL + `/token",service="registry.test"`
	who := w.get("/v2/x/tags/list", "").told(t)
	if want := realm + `,scope="repository:x:pull"`; who.Challenge != want {
		t.Errorf("challenge is %s\nwant %s", who.Challenge, want)
	}
	if want := realm + `,scope="repository:x:pull",error="insufficient_scope"`; who.Lacking != want {
		t.Errorf("challenge is %s\nwant %s", who.Lacking, want)
	}
	for _, path := range []string{"/v2/", "/v2", "/%762/"} {
		r := w.get(path, "")
		if c := r.header.Get("WWW-Authenticate"); r.status != http.StatusUnauthorized || c != realm {
			t.Errorf("%s: status %d, challenge %s", path, r.status, c)
		}
		if want := `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`; string(r.body) != want {
			t.Errorf("body %s\nwant %s", r.body, want)
		}
	}
	w.gate.Set(gate.Live{Basic: true})
	if c := w.get("/v2/", "").header.Get("WWW-Authenticate"); c != `Basic realm="registry.test",charset="UTF-8"` {
		t.Errorf("challenge is %s", c)
	}
	w.get("/v2/", basic("alice", alicePass)).told(t)
}

func TestOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, o *gate.Options) { o.Open = true })
	for _, a := range []string{"", basic("alice", "wrong"), "Bearer nonsense", "nonsense"} {
		if who := w.get("/v2/", a).told(t); who.Account != "" || who.Challenge != "" {
			t.Errorf("with %q: %+v", a, who)
		}
	}
	if r := w.get("/token?service="+service, ""); r.status != http.StatusNotFound {
		t.Errorf("/token: status %d: want 404", r.status)
	}
	if e := w.recorded(); len(e) > 0 {
		t.Errorf("events %v", e)
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for sent, kept := range map[string]bool{"abc-1.X_": true, "": false, "a b": false, strings.Repeat("a", 65): false} {
		req := w.request(http.MethodGet, "/v2/x", nil)
		req.Header.Set("X-Request-Id", sent)
		r := w.do(req)
		id := r.header.Get("X-Request-Id")
		if (id == sent) != kept || id == "" || r.told(t).Request != id {
			t.Errorf("sent %q, got %q, actor has %q", sent, id, r.told(t).Request)
		}
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	root := w.ca.client(t, w, pkix.Name{CommonName: "root", OrganizationalUnit: []string{"ops"}})
	who := w.doWith(root, w.request(http.MethodGet, "/v2/", nil)).told(t)
	if who.Account != "root" || who.Source != gate.CertificateSource || !slices.Equal(who.Groups, []string{"ops"}) {
		t.Errorf("got %+v", who)
	}
	r := w.doWith(root, w.request(http.MethodGet, "/token?offline_token=true&scope=repository:any:*", nil))
	if r.field(t, "refresh_token") != "" {
		t.Error("a refresh token outlives the certificate")
	}
	token := "Bearer " + r.field(t, "token")
	if who := w.get("/v2/", token).told(t); who.Account != "root" || len(who.Grants) != 1 || who.Grants[0].Actions.String() != "pull,push,delete,admin" {
		t.Errorf("by token: %+v", who)
	}
	req := w.request(http.MethodGet, "/v2/", nil)
	req.SetBasicAuth("alice", alicePass)
	if who := w.doWith(root, req).told(t); who.Account != "alice" {
		t.Errorf("with a password: %+v", who)
	}
	req.SetBasicAuth("alice", "wrong")
	if r := w.doWith(root, req); r.status != http.StatusUnauthorized {
		t.Errorf("with a wrong password: status %d: want 401", r.status)
	}
	for _, name := range []string{"", "a\nb", strings.Repeat("a", 300)} {
		c := w.ca.client(t, w, pkix.Name{CommonName: name, Organization: []string{"x"}})
		if who := w.doWith(c, w.request(http.MethodGet, "/v2/x", nil)).told(t); who.Account != "" {
			t.Errorf("name %q: %+v", name, who)
		}
	}
	w.pass(2 * time.Hour)
	if r := w.doWith(root, w.request(http.MethodGet, "/v2/x", nil)); r.status != http.StatusUnauthorized {
		t.Errorf("expired: status %d: want 401", r.status)
	}
}

// What the gate answers by itself is told of, as the server tells of the rest.
func TestObserve(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	w := newWorld(t, func(_ *world, o *gate.Options) {
		o.Observe = func(_ context.Context, r registry.Record) {
			if r.ID == "" || r.Client != "127.0.0.1" || r.Out == 0 || r.Duration <= 0 || (r.Err != nil) != (r.Status >= 400) {
				t.Errorf("record %+v lacks something", r)
			}
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintln(r.Method, r.Path, r.Route, r.Status))
		}
	})
	w.get("/v2/", "")
	w.get("/v2/x", "Bearer nonsense")
	w.get("/v2/x", basic("alice", alicePass))
	w.get("/token?scope=repository:a:pull", "")
	w.get("/token", "Bearer nonsense")
	w.post(nil)
	mu.Lock()
	defer mu.Unlock()
	want := "GET /v2/ refused 401\nGET /v2/x refused 401\nGET /token token 200\nGET /token token 401\nPOST /token token 400\n"
	if got := strings.Join(seen, ""); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A login is told of once, not with each request; a failure always is.
func TestAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	_, key := w.key(accounts.NewKey{Account: "robot"})
	for range 3 {
		w.get("/v2/", basic("alice", alicePass))
		w.get("/v2/", "Bearer "+key)
	}
	w.get("/v2/", basic("bob", "wrong"))
	w.get("/v2/", basic("bob", "wrong"))
	w.get("/v2/", basic(key, "wrong")) // in the wrong field
	w.get("/v2/", "Bearer nonsense")
	w.get("/v2/", "Bearer "+key[:len(key)-4]+"aaaa")
	var got []string
	for _, e := range w.recorded() {
		if e.Actor.Client != "127.0.0.1" || e.Actor.Request == "" || e.Time.IsZero() {
			t.Errorf("event %+v lacks something", e)
		}
		got = append(got, strings.Join([]string{string(e.Kind), string(e.Outcome), e.Actor.Account, e.Subject}, " "))
	}
	want := []string{
		"login ok alice ", "login ok robot ", "login denied  bob", "login denied  bob", "login denied  ", "access denied  ", "login denied  ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
