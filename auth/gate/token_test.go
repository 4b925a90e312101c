package gate_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
)

// grants of a token, as Verify tells them.
func (w *world) grants(token string) []auth.Grant {
	w.t.Helper()
	id, _, err := w.tokens.Verify(token)
	ok(w.t, err)
	return id.Grants
}

func TestScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const pull, push = auth.Pull, auth.Push
	_, key := w.key(accounts.NewKey{Account: "robot", Grants: []auth.Grant{{Repos: "team/*", Actions: pull | push}}})
	_, pushKey := w.key(accounts.NewKey{Account: "robot", Grants: []auth.Grant{{Repos: "team/*", Actions: push}}})
	alice := basic("alice", alicePass)
	one := func(repo string, a auth.Action) []auth.Grant { return []auth.Grant{{Repos: repo, Actions: a}} }
	for _, c := range []struct {
		name, authorization string
		scopes              []string
		want                []auth.Grant
	}{
		{"as asked", alice, []string{"repository:team/web:pull"}, one("team/web", pull)},
		{"less than asked", alice, []string{"repository:team/web:pull,push,delete"}, one("team/web", pull|push)},
		{"all", alice, []string{"repository:team/web:*"}, one("team/web", pull|push)},
		{"push alone", basic("hatter", htPass), []string{"repository:tea:pull,push"}, one("tea", push)},
		{"nothing", alice, []string{"repository:tea:pull"}, nil},
		{"none asked", alice, nil, nil},
		{"several", alice, []string{"repository:team/a:pull repository:public/b:pull,push", "repository:tea:pull"}, append(one("team/a", pull), one("public/b", pull)...)},
		{"one in parts", alice, []string{"repository:team/a:pull", "repository:team/a:push"}, one("team/a", pull|push)},
		{"anonymous", "", []string{"repository:public/x:pull,push", "repository:team/a:pull"}, one("public/x", pull)},
		{"key", basic("token", key), []string{"repository:team/a:pull,push,delete", "repository:team/a/b:pull"}, one("team/a", pull|push)},
		{"catalog", alice, []string{"registry:catalog:*"}, one("", pull)},
		{"catalog for nobody", "", []string{"registry:catalog:*"}, one("", pull)},
		{"catalog for a key that pushes only", basic("token", pushKey), []string{"registry:catalog:*"}, nil},
		{"catalog by another action", alice, []string{"registry:catalog:pull"}, nil},
		{"other types", alice, []string{"artifact:team/web:pull", "registry:other:*"}, nil},
		{"class", alice, []string{"repository(plugin):team/web:pull"}, one("team/web", pull)},
		{"no action", alice, []string{"repository:team/web:"}, nil},
		{"unknown action", alice, []string{"repository:team/web:read"}, nil},
		{"delete", basic("robot", key), []string{"repository:team/a:delete"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := w.grants(w.token(c.authorization, c.scopes...)); !slices.Equal(got, c.want) {
				t.Errorf("granted %v, want %v", got, c.want)
			}
		})
	}
	for _, bad := range []string{
		"repository:team/../root:pull", "repository:Team/web:pull", "repository:team%2fweb:pull", "repository:team/*:pull", "repository:**:pull",
		"repository::pull", "repository", "repository:" + strings.Repeat("a", 300) + ":pull", strings.Repeat("repository:a:pull ", 200), "repository:a\x00b:pull",
	} {
		if r := w.get("/token?"+url.Values{"scope": {bad}}.Encode(), alice); r.status != http.StatusBadRequest {
			t.Errorf("scope %q: status %d: want 400", bad, r.status)
		}
	}
}

func TestTokenAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	r := w.get("/token?service="+service+"&account=alice&scope=repository:team/web:pull", basic("alice", alicePass))
	if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("header %v", r.header)
	}
	if r.field(t, "token") == "" || r.field(t, "token") != r.field(t, "access_token") || !strings.Contains(string(r.body), `"expires_in":300`) {
		t.Errorf("body %s", r.body)
	}
	if at, err := time.Parse(time.RFC3339, r.field(t, "issued_at")); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("issued_at is %s", r.field(t, "issued_at"))
	}
	for name, want := range map[string]int{
		"?service=other": 400, "?service=" + service + "&service=other": 400, "?%zz": 400, "": 200, "?scope=" + strings.Repeat("a", 70<<10): 400,
	} {
		if r := w.get("/token"+name, ""); r.status != want {
			t.Errorf("%.40s: status %d: want %d", name, r.status, want)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions} {
		if r := w.do(w.request(method, "/token", nil)); r.status != http.StatusMethodNotAllowed || r.header.Get("Allow") != "GET, POST" {
			t.Errorf("%s: status %d", method, r.status)
		}
	}
	r = w.get("/token?service="+service, basic("alice", "wrong"))
	if c := r.header.Get("WWW-Authenticate"); r.status != http.StatusUnauthorized || !strings.HasPrefix(c, "Basic ") {
		t.Errorf("wrong password: status %d, challenge %s", r.status, c)
	}
	// A registry token does not renew itself.
	if r := w.get("/token", "Bearer "+w.token(basic("alice", alicePass))); r.status != http.StatusUnauthorized {
		t.Errorf("by a registry token: status %d: want 401", r.status)
	}
}

func TestOAuth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	scope := "repository:team/web:pull,push repository:tea:pull"
	r := w.post(url.Values{
		"grant_type": {"password"}, "username": {"alice"}, "password": {alicePass}, "access_type": {"offline"},
		"service": {service}, "client_id": {"test"}, "scope": {scope},
	})
	if r.status != http.StatusOK || r.field(t, "scope") != "repository:team/web:pull,push" || r.field(t, "token_type") != "Bearer" {
		t.Fatalf("status %d, body %s", r.status, r.body)
	}
	refresh := r.field(t, "refresh_token")
	r = w.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "service": {service}, "client_id": {"test"}, "scope": {scope}})
	if want := []auth.Grant{{Repos: "team/web", Actions: auth.Pull | auth.Push}}; r.status != 200 || !slices.Equal(w.grants(r.field(t, "access_token")), want) {
		t.Errorf("refresh: status %d, body %s", r.status, r.body)
	}
	for name, c := range map[string]struct {
		form   url.Values
		status int
		code   string
	}{
		"wrong password":   {url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {"wrong"}}, 401, "invalid_grant"},
		"no such account":  {url.Values{"grant_type": {"password"}, "username": {"bob"}, "password": {"wrong"}}, 401, "invalid_grant"},
		"no password":      {url.Values{"grant_type": {"password"}, "username": {"alice"}}, 400, "invalid_request"},
		"two passwords":    {url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {alicePass, "x"}}, 400, "invalid_request"},
		"wrong refresh":    {url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh + "x"}}, 401, "invalid_grant"},
		"no refresh":       {url.Values{"grant_type": {"refresh_token"}}, 401, "invalid_grant"},
		"access token":     {url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.field(t, "access_token")}}, 401, "invalid_grant"},
		"no grant":         {url.Values{}, 400, "unsupported_grant_type"},
		"other grant":      {url.Values{"grant_type": {"client_credentials"}}, 400, "unsupported_grant_type"},
		"other service":    {url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {alicePass}, "service": {"x"}}, 400, "invalid_target"},
		"bad scope":        {url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {alicePass}, "scope": {"repository:A:pull"}}, 400, "invalid_scope"},
		"exchange nothing": {url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}}, 400, "invalid_request"},
	} {
		r := w.post(c.form)
		if r.status != c.status || r.field(t, "error") != c.code || !strings.Contains(string(r.body), `"errors":[{"code":`) {
			t.Errorf("%s: status %d, body %s: want %d, %s", name, r.status, r.body, c.status, c.code)
		}
		if (r.status == 401) != strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: challenge %q", name, r.header.Get("WWW-Authenticate"))
		}
	}
}

func TestOAuthForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	form := url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {alicePass}}.Encode()
	for name, c := range map[string]struct {
		path, typ, body string
		status          int
	}{
		"with a charset":    {"/token", "application/x-www-form-urlencoded; charset=utf-8", form, 200},
		"in the URL":        {"/token?" + form, "application/x-www-form-urlencoded", "", 400},
		"JSON":              {"/token", "application/json", `{"grant_type":"password"}`, 400},
		"no type":           {"/token", "", form, 400},
		"malformed":         {"/token", "application/x-www-form-urlencoded", "grant_type=%zz", 400},
		"huge":              {"/token", "application/x-www-form-urlencoded", form + "&x=" + strings.Repeat("y", 70<<10), 400},
		"control character": {"/token", "application/x-www-form-urlencoded", "grant_type=password&username=alice%00&password=x", 401},
	} {
		req := w.request(http.MethodPost, c.path, strings.NewReader(c.body))
		req.Header.Set("Content-Type", c.typ)
		if r := w.do(req); r.status != c.status {
			t.Errorf("%s: status %d, body %s: want %d", name, r.status, r.body, c.status)
		}
	}
}

// Who is granted a refresh token, and what ends it.
func TestRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx := t.Context()
	offline := func(authorization string) string {
		t.Helper()
		r := w.get("/token?offline_token=true&service="+service, authorization)
		if r.status != http.StatusOK {
			t.Fatalf("status %d", r.status)
		}
		return r.field(t, "refresh_token")
	}
	refresh := func(token string) reply {
		return w.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "scope": {"repository:team/a:*"}})
	}
	if offline("") != "" || offline(basic("ci", w.jobs.idToken(t, "acme/web", time.Now().Add(time.Hour)))) != "" {
		t.Error("a refresh token for nobody, or for a job")
	}
	if r := w.get("/token?offline_token=false", basic("alice", alicePass)); r.field(t, "refresh_token") != "" {
		t.Error("a refresh token that nobody asked for")
	}
	id, key := w.key(accounts.NewKey{Account: "robot", Grants: []auth.Grant{{Repos: "team/*", Actions: auth.Pull}}})
	alice, hatter, robot := offline(basic("alice", alicePass)), offline(basic("hatter", htPass)), offline(basic("token", key))

	if who := w.get("/", "Bearer "+refresh(hatter).field(t, "access_token")).told(t); who.Account != "hatter" {
		t.Errorf("got %+v", who)
	}
	who := w.get("/", "Bearer "+refresh(robot).field(t, "access_token")).told(t)
	if who.Key != id || !slices.Equal(who.Grants, []auth.Grant{{Repos: "team/a", Actions: auth.Pull}}) {
		t.Errorf("what a key may not, its refresh token may: %+v", who)
	}

	// The groups are those of now.
	_, err := w.store.Update(ctx, "alice", func(a *accounts.Account) error { a.Groups = []string{"ops"}; return nil })
	ok(t, err)
	if who := w.get("/", "Bearer "+refresh(alice).field(t, "access_token")).told(t); !slices.Equal(who.Groups, []string{"ops"}) || len(who.Grants) > 0 {
		t.Errorf("got %+v, want the new groups", who)
	}

	_, err = w.store.RevokeKey(ctx, id)
	ok(t, err)
	if r := refresh(robot); r.status != http.StatusUnauthorized {
		t.Errorf("of a revoked key: status %d", r.status)
	}
	ok(t, w.store.SetPassword(ctx, "alice", "another password"))
	if r := refresh(alice); r.status != http.StatusUnauthorized {
		t.Errorf("of an old password: status %d", r.status)
	}
	w.pass(40 * 24 * time.Hour)
	if r := refresh(hatter); r.status != http.StatusUnauthorized {
		t.Errorf("expired: status %d", r.status)
	}
}

// forgetful is a source that, asked again, knows neither limits nor keys, and says
// that it is another.
type forgetful struct{ auth.Source }

func (forgetful) Refresh(_ context.Context, id *auth.Identity) (*auth.Identity, error) {
	return &auth.Identity{Account: "root", Source: "elsewhere", Groups: []string{"new"}, Epoch: id.Epoch}, nil
}

// A refresh token is never for more, nor for another, than what it was got with.
func TestRefreshIsForTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *world, o *gate.Options) { o.Sources[1] = forgetful{o.Sources[1]} })
	id, key := w.key(accounts.NewKey{Account: "robot", Grants: []auth.Grant{{Repos: "team/*", Actions: auth.Pull}}})
	refresh := w.get("/token?offline_token=true", basic("token", key)).field(t, "refresh_token")
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "scope": {"repository:team/a:* repository:x:*"}}
	who := w.get("/", "Bearer "+w.post(form).field(t, "access_token")).told(t)
	if who.Account != "robot" || who.Key != id || who.Groups[0] != "new" || !slices.Equal(who.Grants, []auth.Grant{{Repos: "team/a", Actions: auth.Pull}}) {
		t.Errorf("got %+v", who)
	}
}

// Nobody vouches any more for who came from a source that is gone, or forgot it.
func TestRefreshWithoutSource(t *testing.T) {
	t.Parallel()
	gone := false
	w := newWorld(t, func(_ *world, o *gate.Options) { o.Sources[0] = vanishing{o.Sources[0], &gone} })
	refresh := w.get("/token?offline_token=true", basic("hatter", htPass)).field(t, "refresh_token")
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	if r := w.post(form); r.status != http.StatusOK {
		t.Fatalf("status %d, body %s", r.status, r.body)
	}
	gone = true
	if r := w.post(form); r.field(t, "error") != "invalid_grant" {
		t.Errorf("account gone: status %d, body %s", r.status, r.body)
	}
	o := w.options
	o.Sources = o.Sources[1:]
	w.server.Close()
	w.serve(gate.New(o).TokenHandler())
	if r := w.post(form); r.field(t, "error") != "invalid_grant" {
		t.Errorf("source gone: status %d, body %s", r.status, r.body)
	}
}

type vanishing struct {
	auth.Source
	gone *bool
}

func (v vanishing) Current(id *auth.Identity) bool { return !*v.gone && v.Source.Current(id) }

// broken is a source that is not there at the moment.
type broken struct {
	auth.Source
	down bool
}

var errDown = errors.New("directory server at 10.1.2.3 does not answer")

func (b *broken) Login(ctx context.Context, account, password string) (*auth.Identity, error) {
	if b.down {
		return nil, errDown
	}
	return b.Source.Login(ctx, account, password)
}

func (b *broken) Refresh(ctx context.Context, id *auth.Identity) (*auth.Identity, error) {
	if b.down {
		return nil, errDown
	}
	return b.Source.(auth.Refresher).Refresh(ctx, id)
}

// A source that fails is not taken for one that refuses.
func TestSourceDown(t *testing.T) {
	t.Parallel()
	var source *broken
	w := newWorld(t, func(_ *world, o *gate.Options) {
		source = &broken{Source: o.Sources[1]}
		o.Sources = []auth.Source{o.Sources[0], source}
	})
	refresh := w.get("/token?offline_token=true", basic("alice", alicePass)).field(t, "refresh_token")
	token := w.token(basic("alice", alicePass))
	source.down = true
	w.recorded()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	for what, r := range map[string]reply{
		"login": w.get("/v2/", basic("alice", "another")), "token": w.get("/token", basic("bob", "another")), "refresh": w.post(form),
	} {
		if r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || strings.Contains(string(r.body), "10.1.2.3") {
			t.Errorf("%s: status %d, body %s: want 503", what, r.status, r.body)
		}
	}
	for _, e := range w.recorded() {
		if e.Kind != audit.Login || e.Outcome != audit.Failed {
			t.Errorf("event %+v", e)
		}
	}
	if !strings.Contains(w.logs.String(), "10.1.2.3 does not answer") {
		t.Error("the log does not say what failed")
	}
	w.get("/v2/", basic("hatter", htPass)).told(t)
	w.get("/v2/", basic("alice", alicePass)).told(t) // in memory
	w.get("/v2/", "Bearer "+token).told(t)
	source.down = false
	if r := w.post(form); r.status != http.StatusOK {
		t.Errorf("refresh: status %d", r.status)
	}
}

func TestExchange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	form := url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token":      {w.jobs.idToken(t, "acme/web", time.Now().Add(time.Hour))},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"},
		"scope":              {"repository:ci/web:pull,push"}, "audience": {service},
	}
	r := w.post(form)
	if r.status != 200 || r.field(t, "issued_token_type") != "urn:ietf:params:oauth:token-type:access_token" || r.field(t, "refresh_token") != "" {
		t.Fatalf("status %d, body %s", r.status, r.body)
	}
	if want := []auth.Grant{{Repos: "ci/web", Actions: auth.Push}}; !slices.Equal(w.grants(r.field(t, "access_token")), want) {
		t.Errorf("grants %v", w.grants(r.field(t, "access_token")))
	}
	for name, change := range map[string][2]string{
		"expired":        {"subject_token", w.jobs.idToken(t, "acme/web", time.Now().Add(-time.Hour))},
		"no rule":        {"subject_token", w.jobs.idToken(t, "evil/web", time.Now().Add(time.Hour))},
		"other issuer":   {"subject_token", newPlatform(t).idToken(t, "acme/web", time.Now().Add(time.Hour))},
		"nonsense":       {"subject_token", "nonsense"},
		"registry token": {"subject_token", w.token("")},
		"type":           {"subject_token_type", "urn:ietf:params:oauth:token-type:saml2"},
		"wanted type":    {"requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"},
		"actor":          {"actor_token", "x"},
		"resource":       {"resource", "https://elsewhere"},
		"offline":        {"access_type", "offline"},
	} {
		changed := maps.Clone(form)
		changed.Set(change[0], change[1])
		r := w.post(changed)
		if name == "offline" {
			if r.status != 200 || r.field(t, "refresh_token") != "" {
				t.Errorf("offline: status %d, body %s", r.status, r.body)
			}
		} else if r.status != 400 && r.status != 401 {
			t.Errorf("%s: status %d, body %s", name, r.status, r.body)
		}
	}
	fresh := newWorld(t, nil)
	fresh.jobs.down.Store(true)
	form.Set("subject_token", fresh.jobs.idToken(t, "acme/web", time.Now().Add(time.Hour)))
	if r := fresh.post(form); r.status != http.StatusServiceUnavailable {
		t.Errorf("provider down: status %d, body %s", r.status, r.body)
	}
	none := newWorld(t, func(_ *world, o *gate.Options) { o.Workload = nil })
	if r := none.post(form); r.field(t, "error") != "unsupported_grant_type" {
		t.Errorf("without workloads: status %d, body %s", r.status, r.body)
	}
}
