package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

// minCost is bcrypt's least.
const minCost = 4

// Passwords that must be told nobody.
const (
	alicePassword = "alice-secret-1"
	newPassword   = "other-secret-2"
)

// fixture is a server with accounts alice and victim, and keys of alice.
type fixture struct {
	t       testing.TB
	handler http.Handler
	store   *accounts.Store
	tokens  *tokens.Service
	key     accounts.Key // of alice
	secret  string       // of that key

	mu     sync.Mutex
	events []audit.Event
	actors []*audit.Actor
	log    bytes.Buffer
}

// Record implements audit.Recorder.
func (f *fixture) Record(ctx context.Context, e audit.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	f.actors = append(f.actors, audit.FromContext(ctx))
}

// stores are the kinds of stores that the tests run with.
var stores = map[string]func(*testing.T) storage.Meta{
	"mem": func(*testing.T) storage.Meta { return mem.NewMeta() },
	"bolt": func(t *testing.T) storage.Meta {
		m, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		return m
	},
}

// rules make root an administrator, and would make one of everybody if that
// counted.
var rules = []auth.Rule{
	{Who: []string{"root", "group:admins"}, Repos: []string{"**"}, May: auth.Admin},
	{Who: []string{"anonymous"}, Repos: []string{"**"}, May: auth.Admin},
	{Who: []string{"alice"}, Repos: []string{"team/**"}, May: auth.Admin | auth.Pull | auth.Push},
}

func newFixture(t testing.TB, meta storage.Meta) *fixture {
	t.Helper()
	ctx, f := t.Context(), &fixture{t: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	f.store, err = accounts.New(ctx, meta, accounts.Options{Cost: minCost})
	must(err)
	f.tokens, err = tokens.New(ctx, meta, tokens.Options{Service: "test"})
	must(err)
	must(f.store.Create(ctx, accounts.Account{Name: "alice", Groups: []string{"dev"}}, alicePassword))
	must(f.store.Create(ctx, accounts.Account{Name: "victim"}, alicePassword))
	f.key, f.secret, err = f.store.CreateKey(ctx, accounts.NewKey{Account: "alice", Grants: []auth.Grant{{Repos: "team/*", Actions: auth.Pull}}})
	must(err)
	policy, err := auth.NewPolicy(rules)
	must(err)
	f.handler = admin.New(admin.Options{
		Accounts: f.store, Tokens: f.tokens, Authority: policy, Audit: f,
		Log: slog.New(slog.NewTextHandler(&f.log, nil)),
	})
	return f
}

// as returns the handler as somebody sees it, as the gate would have put it.
func (f *fixture) as(id *auth.Identity) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := auth.NewContext(r.Context(), &auth.Session{Identity: id})
		ctx = audit.NewContext(ctx, &audit.Actor{Account: id.Account, Source: id.Source, Key: id.Key})
		f.handler.ServeHTTP(w, r.WithContext(ctx))
	})
}

// snapshot is all that can be changed, as text.
func (f *fixture) snapshot() string {
	f.t.Helper()
	list, err := f.store.List(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	keys, err := f.store.Keys(f.t.Context(), "")
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := json.Marshal([]any{list, keys, f.tokens.JWKS()})
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// passwords says whose password is another than it was.
func (f *fixture) passwords() (changed string) {
	for _, name := range []string{"alice", "victim"} {
		if _, err := f.store.Login(f.t.Context(), name, alicePassword); errors.Is(err, auth.ErrWrong) {
			changed += " password of " + name
		}
	}
	return changed
}

// request makes a request with a body, if that is not empty.
func request(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// caller is a kind of caller of the matrix.
type caller struct {
	name string
	via  func(*fixture) http.Handler
}

// callers are all kinds of callers there are.
func callers() []caller {
	who := func(name string, id auth.Identity) caller {
		return caller{name, func(f *fixture) http.Handler { return f.as(&id) }}
	}
	pull := []auth.Grant{{Repos: "team/*", Actions: auth.Pull}}
	wide := []auth.Grant{{Repos: "**", Actions: auth.Admin}}
	return []caller{
		{"no session", func(f *fixture) http.Handler { return f.handler }},
		who("anonymous", auth.Identity{}),
		who("person", auth.Identity{Account: "alice", Source: accounts.Source, Groups: []string{"dev"}}),
		{"key", func(f *fixture) http.Handler {
			return f.as(&auth.Identity{Account: "alice", Source: accounts.Source, Key: f.key.ID, Grants: f.key.Grants})
		}},
		who("registry token", auth.Identity{Account: "alice", Source: accounts.Source, Grants: pull, Scoped: true}),
		who("external token", auth.Identity{Account: "alice", Source: "external", Grants: wide, Final: true}),
		who("other account", auth.Identity{Account: "bob", Source: "ldap", Groups: []string{"dev"}}),
		who("job", auth.Identity{Account: "github/job", Source: "github", Claims: map[string]string{"ref": "main"}}),
		who("admin", auth.Identity{Account: "root", Source: "ldap"}),
		who("admin by group", auth.Identity{Account: "carol", Source: "ldap", Groups: []string{"admins"}}),
		who("admin's narrow key", auth.Identity{Account: "root", Source: "ldap", Key: "k", Grants: pull}),
		who("admin's wide key", auth.Identity{Account: "root", Source: "ldap", Key: "k", Grants: wide}),
		who("admin's registry token", auth.Identity{Account: "root", Source: "ldap", Grants: wide, Scoped: true}),
		{"socket", func(f *fixture) http.Handler { return admin.Local(f.handler) }},
	}
}

// matrix says which status each caller gets, in the order of callers.
var matrix = []struct {
	method, path, body string
	want               [14]int
}{
	//                                                     none anon alice key token ext  bob  job root group narrow wide token socket
	{"GET", "whoami", "", [14]int{401, 401, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200}},
	{"GET", "users", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
	{"GET", "users/alice", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
	{"GET", "users/nobody", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 404, 404, 403, 404, 403, 404}},
	{"POST", "users", `{"name":"new","password":"` + newPassword + `"}`, [14]int{401, 401, 403, 403, 403, 403, 403, 403, 201, 201, 403, 201, 403, 201}},
	{"POST", "users", `{"name":"bot","robot":true}`, [14]int{401, 401, 403, 403, 403, 403, 403, 403, 201, 201, 403, 201, 403, 201}},
	{"PATCH", "users/victim", `{"groups":["admins"]}`, [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
	{"PATCH", "users/alice", `{"groups":["admins"]}`, [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
	{"DELETE", "users/victim", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 204, 204, 403, 204, 403, 204}},
	{"DELETE", "users/alice", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 204, 204, 403, 204, 403, 204}},
	{
		"PUT", "users/alice/password", `{"old":"` + alicePassword + `","password":"` + newPassword + `"}`,
		[14]int{401, 401, 204, 403, 403, 403, 403, 403, 204, 204, 403, 204, 403, 204},
	},
	{
		"PUT", "users/victim/password", `{"old":"` + alicePassword + `","password":"` + newPassword + `"}`,
		[14]int{401, 401, 403, 403, 403, 403, 403, 403, 204, 204, 403, 204, 403, 204},
	},
	{"PUT", "users/alice/password", `{"password":"` + newPassword + `"}`, [14]int{401, 401, 403, 403, 403, 403, 403, 403, 204, 204, 403, 204, 403, 204}},
	{"GET", "tokens", "", [14]int{401, 401, 200, 403, 403, 403, 200, 200, 200, 200, 403, 200, 403, 400}},
	{"GET", "tokens?account=alice", "", [14]int{401, 401, 200, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
	{"GET", "tokens?all=true", "", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 403, 200, 403, 200}},
	{
		"POST", "tokens", `{"grants":[{"repos":"team/*","actions":["pull"]}],"never":true}`,
		[14]int{401, 401, 201, 403, 403, 403, 201, 403, 201, 201, 403, 403, 403, 400},
	},
	{
		"POST", "tokens", `{"account":"alice","grants":[{"repos":"team/*","actions":["pull"]}],"never":true}`,
		[14]int{401, 401, 201, 403, 403, 403, 403, 403, 201, 201, 403, 403, 403, 201},
	},
	{
		"POST", "tokens", `{"account":"alice","grants":[{"repos":"team/*","actions":["admin"]}],"never":true}`,
		[14]int{401, 401, 201, 403, 403, 403, 403, 403, 201, 201, 403, 201, 403, 201},
	},
	{
		"POST", "tokens", `{"account":"nobody","grants":[{"repos":"team/*","actions":["admin"]}],"never":true}`,
		[14]int{401, 401, 403, 403, 403, 403, 403, 403, 404, 404, 403, 404, 403, 404},
	},
	{"DELETE", "tokens/KEY", "", [14]int{401, 401, 204, 204, 403, 403, 404, 404, 204, 204, 404, 204, 403, 204}},
	{"DELETE", "tokens/aaaaaaaaaaaaaaaa", "", [14]int{401, 401, 404, 404, 403, 403, 404, 404, 404, 404, 404, 404, 403, 404}},
	{"POST", "signing-keys/rotate", "{}", [14]int{401, 401, 403, 403, 403, 403, 403, 403, 204, 204, 403, 204, 403, 204}},
}

// Every kind of caller, on every route, with both stores: the status, that a
// refusal changes nothing, that a change is recorded, and that no secret is told.
func TestMatrix(t *testing.T) {
	for kind, open := range stores {
		for _, tt := range matrix {
			t.Run(kind+"/"+tt.method+" "+tt.path, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, open(t))
				for i, c := range callers() {
					if i > 0 && tt.want[i-1] < 400 { // it has changed something
						f = newFixture(t, open(t))
					}
					f.try(c, tt.method, tt.path, tt.body, tt.want[i])
				}
			})
		}
	}
}

// try makes a request of the matrix.
func (f *fixture) try(c caller, method, path, body string, want int) {
	f.t.Helper()
	before, events := f.snapshot(), len(f.events)
	r := request(method, admin.Prefix+strings.Replace(path, "KEY", f.key.ID, 1), body)
	w := serve(c.via(f), r)
	answer := w.Body.String()
	if w.Code != want {
		f.t.Errorf("%s: %s %s: %d %s, want %d", c.name, method, path, w.Code, answer, want)
	}
	changed := f.snapshot()+f.passwords() != before
	if changes := method != "GET" && w.Code < 400 && !strings.Contains(body, `{"groups":["dev"]}`); changed != changes {
		f.t.Errorf("%s: %s %s: status %d, changed: %v", c.name, method, path, w.Code, changed)
	}
	if w.Header().Get("Cache-Control") != "no-store" || w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
		f.t.Errorf("%s: %s %s: header %v", c.name, method, path, w.Header())
	}
	if w.Code >= 400 {
		var list struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Errors) != 1 || list.Errors[0].Code == "" || list.Errors[0].Message == "" {
			f.t.Errorf("%s: %s %s: error %s", c.name, method, path, answer)
		}
	}
	f.checkRecord(c, method, path, w.Code, f.events[events:])
	told, err := json.Marshal(f.events)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, secret := range []string{alicePassword, newPassword, f.secret, strings.TrimPrefix(f.secret, "berth_"+f.key.ID+"_")} {
		if strings.Contains(answer+f.log.String()+string(told), secret) {
			f.t.Errorf("%s: %s %s tells a secret: %s", c.name, method, path, answer)
		}
	}
}

// checkRecord checks what the audit was told of a request.
func (f *fixture) checkRecord(c caller, method, path string, status int, events []audit.Event) {
	f.t.Helper()
	if method == "GET" {
		if len(events) != 0 {
			f.t.Errorf("%s: %s %s is recorded: %v", c.name, method, path, events)
		}
		return
	}
	want := audit.OK
	switch status {
	case 401, 403:
		want = audit.Denied
	case 400, 404:
		want = audit.Failed
	}
	if len(events) != 1 {
		f.t.Errorf("%s: %s %s: recorded %v", c.name, method, path, events)
		return
	}
	e := events[0]
	if e.Outcome != want || e.Action == "" || (e.Subject == "" && status < 300 && e.Kind != audit.ConfigChange) || (e.Reason == "") != (want == audit.OK) {
		f.t.Errorf("%s: %s %s: recorded %+v", c.name, method, path, e)
	}
	if a := f.actors[len(f.actors)-1]; c.name == "socket" && (a == nil || a.Source != admin.LocalSource || a.Request == "") {
		f.t.Errorf("%s: %s %s: actor %+v", c.name, method, path, a)
	}
}

// Without a policy nobody administers over the network, but who comes by the
// socket does.
func TestOpen(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	f.handler = admin.New(admin.Options{Accounts: f.store})
	for _, c := range callers() {
		for _, path := range []string{"users", "tokens?all=true"} {
			want := http.StatusForbidden
			if c.name == "socket" {
				want = http.StatusOK
			}
			if w := serve(c.via(f), request("GET", admin.Prefix+path, "")); w.Code != want {
				t.Errorf("%s: GET %s: %d %s", c.name, path, w.Code, w.Body)
			}
		}
	}
	w := serve(admin.Local(f.handler), request("POST", admin.Prefix+"signing-keys/rotate", "{}"))
	if w.Code != http.StatusNotImplemented {
		t.Errorf("no tokens: %d %s", w.Code, w.Body)
	}
}

// An old password that is wrong is refused, and recorded as such.
func TestWrongOldPassword(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	h := f.as(&auth.Identity{Account: "alice", Source: accounts.Source})
	w := serve(h, request("PUT", admin.Prefix+"users/alice/password", `{"old":"wrong","password":"`+newPassword+`"}`))
	if w.Code != 403 || !strings.Contains(w.Body.String(), "PASSWORD_WRONG") || f.events[0].Outcome != audit.Denied {
		t.Errorf("%d %s, %+v", w.Code, w.Body, f.events)
	}
	// The same name, vouched for elsewhere, is not enough.
	h = f.as(&auth.Identity{Account: "alice", Source: "htpasswd"})
	w = serve(h, request("PUT", admin.Prefix+"users/alice/password", `{"old":"`+alicePassword+`","password":"`+newPassword+`"}`))
	if w.Code != 403 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Disabling an account takes its refresh tokens away for good.
func TestDisable(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	id, err := f.store.Login(t.Context(), "alice", alicePassword)
	if err != nil {
		t.Fatal(err)
	}
	refresh, err := f.tokens.IssueRefresh(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	c := admin.NewHandlerClient(admin.Local(f.handler))
	for _, disabled := range []bool{true, false} {
		u, err := c.ChangeUser(t.Context(), "alice", admin.UserChange{Disabled: &disabled})
		if err != nil || u.Disabled != disabled || len(u.Groups) != 1 {
			t.Fatalf("%+v, %v", u, err)
		}
		if got := f.store.Current(id); got == disabled {
			t.Errorf("disabled %v: current %v", disabled, got)
		}
	}
	if _, err := f.tokens.Refresh(t.Context(), refresh); err == nil {
		t.Error("a refresh token outlived that its account was disabled")
	}
}

// What makes keys cannot fill the store.
func TestTooManyTokens(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	c := admin.NewHandlerClient(f.as(&auth.Identity{Account: "alice", Source: accounts.Source}))
	expires := time.Now().Add(time.Hour)
	n := admin.NewToken{Grants: []admin.Grant{{Repos: "a", Actions: []string{"pull", "push"}}}, Expires: &expires, Note: "n"}
	for i := 1; ; i++ { // the fixture has made one
		made, err := c.CreateToken(t.Context(), n)
		if err != nil {
			if i != 100 {
				t.Errorf("after %d keys: %v", i, err)
			}
			break
		}
		if made.Account != "alice" || made.Expires == nil || !made.Expires.Equal(expires.UTC()) || made.Secret == "" || made.Note != "n" {
			t.Fatalf("made %+v", made)
		}
	}
	list, err := c.Tokens(t.Context(), "")
	if err != nil || len(list) != 100 || list[99].Secret != "" {
		t.Errorf("%d keys, %v", len(list), err)
	}
}

// Keys of accounts of another source are made with their groups, and come back
// with them.
func TestForeignToken(t *testing.T) {
	f := newFixture(t, mem.NewMeta())
	c := admin.NewHandlerClient(f.as(&auth.Identity{Account: "bob", Source: "ldap", Groups: []string{"dev"}}))
	made, err := c.CreateToken(t.Context(), admin.NewToken{Grants: []admin.Grant{{Repos: "**", Actions: []string{"pull"}}}, Never: true})
	if err != nil {
		t.Fatal(err)
	}
	id, err := f.store.LoginKey(t.Context(), "bob", made.Secret)
	if err != nil || id.Source != "ldap" || len(id.Groups) != 1 || len(id.Grants) != 1 {
		t.Errorf("%+v, %v", id, err)
	}
}
