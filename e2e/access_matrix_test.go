package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

const matrixConfig = `
http: {tls: {cert: %s, key: %s, client_ca: %s}}
auth:
  htpasswd: {file: %s}
  certificates: {account: cn, groups: ou}
  workload: {jobs: {issuer: %s, audience: registry.test, claims: ["repository=acme/*"], account: "ci/{repository}"}}
`

// matrix is a server, and everybody who asks it.
type matrix struct {
	*guarded
	fixture *matrixFixture
	callers []*caller
	address atomic.Int64 // that the next slow caller comes from
}

// TestAccessMatrix has callers of each kind use each route in repositories with each
// set of rights. What must come back is told by a reading of the policy that is the
// test's own.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	ran := t.Run("routes", func(t *testing.T) {
		for _, c := range m.callers {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				if c.slow {
					m.refused(t, c)
					return
				}
				m.global(t, c)
				repos := matrixRepos
				if c.unknown {
					repos = []string{"public/app"} // to them all are the same
				}
				for _, repo := range repos {
					for _, r := range matrixRoutes() {
						m.ask(t, c, &r, repo)
					}
				}
				m.administration(t, c)
				m.others(t, c)
			})
		}
	})
	if ran {
		m.fixture.intact()
	}
}

// newMatrix starts the server and makes the callers.
func newMatrix(t *testing.T) *matrix {
	t.Helper()
	ca, idp := berthtest.NewCA(t), berthtest.StartIDP(t)
	cert, key := ca.Server("127.0.0.1")
	hatter := "pw-" + rand.Text()
	htpasswd := writeFile(t, t.TempDir(), "htpasswd", []byte(berthtest.NewCommand(t, "htpasswd").Input(hatter).Run("-niB", "hatter")))
	config := fmt.Sprintf(matrixConfig, cert, key, ca.File, htpasswd, idp.Issuer)

	m := &matrix{guarded: startGuarded(t, berthtest.Options{CA: ca}, config, policyYAML(matrixPolicy))}
	m.fixture = newMatrixFixture(t, m.guarded)
	m.people(hatter)
	m.keys()
	m.jobs(idp)
	m.certificates(ca)
	m.stale()
	m.forged()
	return m
}

// add adds somebody.
func (m *matrix) add(c caller) *caller {
	if c.wire == nil {
		c.wire = m.wire
	}
	m.callers = append(m.callers, &c)
	return &c
}

// withToken adds somebody as well with the registry tokens that they can get.
func (m *matrix) withToken(c caller, narrow bool) {
	m.t.Helper()
	if c.wire == nil {
		c.wire = m.wire
	}
	c.program = true
	wide := []string{}
	for _, repo := range matrixRepos {
		wide = append(wide, repo+":*", twinOf(repo)+":*")
	}
	for name, scope := range map[string][]string{"wide token of ": wide, "narrow token of ": {"both/app:pull", "public/app:pull,push"}} {
		if !narrow && strings.HasPrefix(name, "narrow") {
			continue
		}
		with := c
		with.name, with.scope = name+c.name, scope
		got := m.tokenBy(c.wire, c.header, "repository:"+strings.Join(scope, " repository:"))
		m.grants(&with, got.Scope)
		with.header = m.bearer(got.Token)
		m.add(with)
	}
}

// grants checks what the token endpoint says that it has granted.
func (m *matrix) grants(c *caller, scope string) {
	m.t.Helper()
	var want []string
	for _, asked := range c.scope {
		repo, _, _ := strings.Cut(asked, ":")
		var may []string
		for _, action := range []string{"pull", "push", "delete", "admin"} {
			if c.allowed(repo, action) {
				may = append(may, action)
			}
		}
		if may != nil {
			want = append(want, "repository:"+repo+":"+strings.Join(may, ","))
		}
	}
	if got := strings.Fields(scope); !slices.Equal(got, want) {
		m.t.Errorf("%s: granted %q, want %q", c.name, got, want)
	}
}

// people sign in by passwords, or not at all.
func (m *matrix) people(hatter string) {
	m.t.Helper()
	anonymous := caller{name: "nobody"}
	m.add(anonymous)
	m.withToken(anonymous, true)
	m.add(caller{name: "root", account: "root", header: m.root})
	m.withToken(caller{name: "root", account: "root", header: m.root}, false)
	for name, groups := range map[string][]string{"alice": {"others", "members"}, "carol": nil, "barred": {"members"}} {
		c := caller{name: name, account: name, groups: groups, header: m.basic(name, m.user(name, groups...))}
		m.add(c)
		m.withToken(c, name == "alice")
		if name == "alice" {
			m.slow("wrong password", m.basic("alice", "not-"+rand.Text()))
		}
	}
	c := caller{name: "hatter", account: "hatter", header: m.basic("hatter", hatter)}
	m.add(c)
	m.withToken(c, false)
	m.slow("wrong password of the file", m.basic("hatter", "not-"+rand.Text()))
	m.slow("no such account", m.basic("nobody", "not-"+rand.Text()))
}

// slow adds somebody whose credentials are never good.
func (m *matrix) slow(name string, header []string) *caller {
	return m.add(caller{name: name, header: header, unknown: true, slow: true})
}

// keys are used by people and robots.
func (m *matrix) keys() {
	m.t.Helper()
	grants := []string{"both/**:pull", "pull/*:pull,push", "push/*:push", "all/**:delete"}
	_, secret := m.key("alice", grants...)
	for how, header := range map[string][]string{
		"key as password": m.basic("alice", secret), "key of token": m.basic("token", secret), "key as bearer": m.bearer(secret),
	} {
		c := caller{name: how, account: "alice", groups: []string{"members"}, key: grants, header: header, program: true}
		m.add(c)
		if how == "key as password" {
			m.withToken(c, true)
		}
	}
	m.slow("key of another", m.basic("carol", secret))

	m.admin(http.StatusCreated, "POST", "users", map[string]any{"name": "robot", "robot": true, "groups": []string{"members"}})
	_, secret = m.key("robot", "**:pull,push,delete,admin")
	m.add(caller{name: "robot", account: "robot", groups: []string{"members"}, key: []string{"**:pull,push,delete,admin"}, header: m.basic("robot", secret), program: true})
	for _, grant := range []string{"**:pull", "**:admin"} {
		_, secret = m.key("root", grant)
		m.add(caller{name: "key of root for " + strings.Trim(grant, "*:"), account: "root", key: []string{grant}, header: m.bearer(secret), program: true})
	}
}

// jobs have ID tokens of a provider.
func (m *matrix) jobs(idp *berthtest.IDP) {
	m.t.Helper()
	claims := berthtest.GitHubClaims("registry.test", "acme/web", "refs/heads/main")
	token := m.secret("an ID token", idp.Token(claims))
	c := caller{
		name: "job", account: "ci/acme/web", claims: map[string]string{"repository": "acme/web"},
		header: m.basic("job", token),
	}
	m.add(c)
	m.withToken(c, false)
	exchanged := m.tokens(m.form(url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"}, "scope": {"repository:both/app:push repository:pull/app:*"},
	}))
	c.name, c.scope, c.header = "exchanged token of a job", []string{"both/app:push", "pull/app:*"}, m.bearer(exchanged.Token)
	m.add(c)

	m.slow("job of another repository", m.basic("job", idp.Token(berthtest.GitHubClaims("registry.test", "evil/web", "refs/heads/main"))))
	m.slow("job of another audience", m.basic("job", idp.Token(berthtest.GitHubClaims("other.test", "acme/web", "refs/heads/main"))))
}

// certificates are shown by TLS.
func (m *matrix) certificates(ca *berthtest.CA) {
	m.t.Helper()
	show := func(name string, units ...string) *wire {
		pair := must(tls.LoadX509KeyPair(ca.Client(name, units...)))(m.t)
		return &wire{m.URL, ca.HTTP(pair)}
	}
	c := caller{name: "certificate", account: "bob", groups: []string{"members"}, wire: show("bob", "members")}
	m.add(c)
	m.withToken(c, false)
	m.add(caller{name: "certificate of nobody", wire: show("")})
	alice := m.callers[slices.IndexFunc(m.callers, func(c *caller) bool { return c.name == "carol" })]
	m.add(caller{name: "certificate and password", account: "carol", header: alice.header, wire: show("root", "members")})
	wrong := m.slow("certificate and wrong password", m.basic("carol", "not-"+rand.Text()))
	wrong.wire = show("root")
}

// stale is what was good once.
func (m *matrix) stale() {
	m.t.Helper()
	never := func(name, fault string, header []string) {
		m.add(caller{name: name, header: header, unknown: true, invalid: fault})
	}
	disabled, removed, changed := m.basic("disabled", m.user("disabled", "members")), m.basic("removed", m.user("removed")), m.basic("changed", m.user("changed"))
	id, key := m.key("alice", "**:pull,push")
	for _, c := range []struct {
		name   string
		header []string
	}{{"disabled", disabled}, {"removed", removed}, {"changed", changed}, {"revoked", m.bearer(key)}} {
		never("token of "+c.name, "invalid_token", m.bearer(m.token(c.header, "repository:both/app:*").Token))
		m.slow(c.name, c.header).invalid = map[bool]string{true: "invalid_token"}[c.name == "revoked"]
	}
	m.slow("revoked, as password", m.basic("alice", key))
	m.admin(http.StatusOK, "PATCH", "users/disabled", map[string]any{"disabled": true})
	m.admin(http.StatusNoContent, "DELETE", "users/removed", nil)
	m.admin(http.StatusNoContent, "PUT", "users/changed/password", map[string]any{"password": m.secret("the password of changed", "pw-"+rand.Text())})
	m.admin(http.StatusNoContent, "DELETE", "tokens/"+id, nil)
}

// forged is what the registry has not made, or not made for this.
func (m *matrix) forged() {
	m.t.Helper()
	f := newForger(m.t, m.guarded)
	for name, token := range f.tokens(m.token(m.root, "repository:both/app:*").Token) {
		m.add(caller{name: name, header: m.bearer(token), unknown: true, invalid: "invalid_token"})
	}
	for name, value := range map[string]string{"no Basic": "Basic !!", "no token": "Bearer", "Digest": "Digest username=alice", "empty": " "} {
		m.add(caller{name: name, header: []string{"Authorization", value}, unknown: true})
	}
}

// refused has somebody use each route whose credentials are not good, from as many
// addresses as it takes.
func (m *matrix) refused(t *testing.T, c *caller) {
	t.Helper()
	routes := append(matrixGlobals(), matrixRoutes()...)
	var all sync.WaitGroup
	for part := range slices.Chunk(routes, 4) {
		n := m.address.Add(1)
		from := *c
		addressed := m.fromWire(c.wire, fmt.Sprintf("127.0.%d.%d", 1+n/200, 1+n%200))
		from.wire = addressed
		all.Go(func() {
			for _, r := range part {
				if r.action == "signin" || r.action == "" {
					m.check(t, &from, &r, "", r.request(m.fixture, "", false))
					continue
				}
				m.check(t, &from, &r, "public/app", r.request(m.fixture, "public/app", false))
			}
		})
	}
	all.Wait()
}

// global has somebody use the routes that are of no repository.
func (m *matrix) global(t *testing.T, c *caller) {
	t.Helper()
	for _, r := range matrixGlobals() {
		a := m.check(t, c, &r, "", r.request(m.fixture, "", false))
		if a.status != http.StatusOK {
			continue
		}
		want := c.listed()
		switch r.name {
		case "catalog", "catalog page":
			got := decode[struct{ Repositories []string }](t, string(a.body)).Repositories
			if !slices.Equal(got, want) {
				t.Errorf("%s: the %s has %q, want %q", c.name, r.name, got, want)
			}
		case "search":
			var got []string
			for _, found := range decode[struct{ Results []struct{ Name string } }](t, string(a.body)).Results {
				got = append(got, found.Name)
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s finds %q, want %q", c.name, got, want)
			}
		}
	}
}

// ask has somebody use a route in a repository. If that may not be, it may not be in
// the very same way where there is no repository.
func (m *matrix) ask(t *testing.T, c *caller, r *matrixRoute, repo string) {
	t.Helper()
	done := c.allowed(repo, r.action)
	req := r.request(m.fixture, repo, done)
	a := m.check(t, c, r, repo, req)
	switch {
	case !done:
		twin := twinOf(repo)
		req.path = strings.Replace(req.path, "/v2/"+repo+"/", "/v2/"+twin+"/", 1)
		req.path = strings.Replace(req.path, "&from="+repo, "&from="+twin, 1)
		b := m.do(t, c, req)
		same := func(s string) string { return strings.ReplaceAll(s, twin, repo) }
		if a.status != b.status || string(a.body) != same(string(b.body)) || !maps.EqualFunc(stable(a.header), stable(b.header), func(x, y []string) bool {
			return slices.EqualFunc(x, y, func(x, y string) bool { return x == same(y) })
		}) {
			t.Errorf("%s: %s: in %s, which is there, %s %v; in %s, which is not, %s %v", c.name, r.name, repo, a, a.header, twin, b, b.header)
		}
	case r.name == "tags" && !bytes.Contains(a.body, []byte(`"v1"`)), r.name == "referrers" && !bytes.Contains(a.body, []byte(`"test/x"`)):
		t.Errorf("%s: %s of %s: %s", c.name, r.name, repo, a)
	}
	if r.name == "referrers" && !done && bytes.Contains(a.body, []byte(`"test/x"`)) {
		t.Errorf("%s sees the referrers of %s", c.name, repo)
	}
}

func (m *matrix) do(t *testing.T, c *caller, req matrixRequest) answer {
	t.Helper()
	return must(c.wire.do(req.method, req.path, bytes.NewReader(req.body), append(slices.Clone(c.header), req.header...)...))(t)
}

// check sends a request and compares the answer with the verdict.
func (m *matrix) check(t *testing.T, c *caller, r *matrixRoute, repo string, req matrixRequest) answer {
	t.Helper()
	a, want := m.do(t, c, req), c.verdict(r, repo)
	failed := func(what string) {
		t.Helper()
		t.Errorf("%s: %s of %s (%s %s): %s %q: want %s: %+v", c.name, r.name, repo, req.method, req.path, a, a.header["Www-Authenticate"], what, want)
	}
	if a.status != want.status {
		failed("another status")
		return a
	}
	if a.status >= 400 && req.method != http.MethodHead {
		if err := a.clear(); err != nil || !bytes.Contains(a.body, []byte(`"code":"`+want.code+`"`)) {
			failed("another code")
		}
	}
	challenge := ""
	if a.status == http.StatusUnauthorized {
		challenge = `Bearer realm="` + m.URL + `/token",service="berth"`
		for _, p := range [][2]string{{"scope", want.scope}, {"error", want.fault}} {
			if p[1] != "" {
				challenge += "," + p[0] + `="` + p[1] + `"`
			}
		}
	}
	if got := strings.Join(a.header.Values("WWW-Authenticate"), "; "); got != challenge {
		failed("the challenge " + challenge)
	}
	return a
}

// others are the routes beside the registry's: those that are for all, and the token
// endpoint.
func (m *matrix) others(t *testing.T, c *caller) {
	t.Helper()
	token := http.StatusOK
	if c.unknown || c.scope != nil {
		token = http.StatusUnauthorized
	}
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/login": 200, "/assets/berth.css": 200, "/": 200, "/tokens": http.StatusSeeOther,
		"/nothing": 404, "/metrics": 404, "/debug/pprof/": 404, "/v2x": 404, "/token?service=berth": token, "/token?service=other": http.StatusBadRequest,
	} {
		if a := m.do(t, c, matrixRequest{method: "GET", path: path}); a.status != want {
			t.Errorf("%s: %s: %d %.100s: want %d", c.name, path, a.status, a.body, want)
		}
	}
}

// administration has somebody use the routes of the administration.
func (m *matrix) administration(t *testing.T, c *caller) {
	t.Helper()
	const signedIn, inPerson, administrator = 1, 2, 3
	rights := signedIn
	switch {
	case c.unknown, c.account == "":
		rights = 0
	case c.account == "root" && c.scope == nil && covers(c.key, "", "admin"):
		rights = administrator
	case c.scope == nil && !c.program:
		rights = inPerson
	}
	for _, r := range []struct {
		method, path, body string
		needs, status      int
	}{
		{"GET", "whoami", "", signedIn, 200},
		{"DELETE", "tokens/none", "", signedIn, 404},
		{"GET", "tokens", "", inPerson, 200},
		{"POST", "tokens", "{}", inPerson, 400},
		{"GET", "tokens?account=robot", "", administrator, 200},
		{"GET", "tokens?all=true", "", administrator, 200},
		{"PUT", "users/robot/password", `{"password":"x"}`, administrator, 400},
		{"GET", "users", "", administrator, 200},
		{"GET", "users/alice", "", administrator, 200},
		{"GET", "users/none", "", administrator, 404},
		{"POST", "users", `{"name":"NO"}`, administrator, 400},
		{"PATCH", "users/none", `{"groups":[]}`, administrator, 404},
		{"DELETE", "users/none", "", administrator, 404},
		{"POST", "signing-keys/rotate", "{}", administrator, 204},
		{"GET", "scrub", "", administrator, 200},
		{"GET", "retention", "", administrator, 200},
		{"GET", "nodes", "", administrator, 200},
		{"GET", "gc", "", administrator, 200},
	} {
		req := matrixRequest{method: r.method, path: "/api/v1/" + r.path, body: []byte(r.body)}
		if r.body != "" {
			req.header = []string{"Content-Type", "application/json"}
		}
		want := r.status
		switch {
		case rights == 0:
			want = http.StatusUnauthorized
		case rights < r.needs, r.path == "tokens/none" && c.scope != nil, r.method == "POST" && r.path == "tokens" && (c.name == "job" || c.name == "certificate"):
			want = http.StatusForbidden
		}
		if r.path == "signing-keys/rotate" && want < 300 && c.name != "root" {
			continue // not again and again
		}
		a := m.do(t, c, req)
		if a.status != want || bytes.Contains(a.body, []byte(`"secret"`)) {
			t.Errorf("%s: %s %s: %s: want %d", c.name, r.method, r.path, a, want)
		}
	}
}
