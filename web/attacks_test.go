package web_test

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/e2e/berthtest"
)

// newKey is a key of the local account.
func newKey() accounts.NewKey { return accounts.NewKey{Account: local} }

func (b *browser) cookies() map[string]string {
	u, err := url.Parse(b.s.URL)
	b.s.must(err)
	all := map[string]string{}
	for _, c := range b.Jar.Cookies(u) {
		all[c.Name] = c.Value
	}
	return all
}

func (b *browser) setCookie(name, value string) {
	u, err := url.Parse(b.s.URL)
	b.s.must(err)
	b.Jar.SetCookies(u, []*http.Cookie{{Name: name, Value: value, Path: "/"}})
}

// callback is what a provider sends a browser back with, held up on its way.
func (b *browser) callback(user string) string {
	b.s.t.Helper()
	var back string
	b.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), b.s.URL+"/oidc/test/callback") {
			back = r.URL.RequestURI()
			return http.ErrUseLastResponse
		}
		return nil
	}
	b.s.idp.SignIn(b.Client, b.s.URL+"/oidc/test", user)
	b.CheckRedirect = nil
	if back == "" {
		b.s.t.Fatal("the provider did not send the browser back")
	}
	return back
}

func TestCallbackAttacks(t *testing.T) {
	s := newSite(t, false, nil)

	// Login CSRF: the attacker's callback, opened in the victim's browser, which
	// may be about to sign in itself.
	attacker, victim := s.browser(), s.browser()
	back := attacker.callback(berthtest.Bob)
	victim.open(back)
	victim.want(http.StatusBadRequest, "Sign-in failed", "!id-bob")
	victim.callback(berthtest.Alice)
	victim.open(back)
	victim.want(http.StatusBadRequest, "Sign-in failed", "!id-bob")
	if c := victim.cookies(); len(c) > 0 {
		t.Errorf("the victim has cookies: %v", c)
	}

	// The attacker's own still works; once.
	kept := attacker.cookies()["berth-sign-in-test"]
	attacker.open(back)
	attacker.want(http.StatusOK, "test/id-bob")
	again := s.browser()
	again.open(back)
	again.want(http.StatusBadRequest, "Sign-in failed")
	again.setCookie("berth-sign-in-test", kept)
	again.open(back)
	again.want(http.StatusForbidden, "does not accept", "!id-bob")

	// A code that was found, put into a sign-in of one's own.
	found, err := url.Parse(victim.callback(berthtest.Alice))
	s.must(err)
	thief := s.browser()
	own, err := url.Parse(thief.callback(berthtest.Bob))
	s.must(err)
	q := own.Query()
	q.Set("code", found.Query().Get("code"))
	thief.open(own.Path + "?" + q.Encode())
	thief.want(http.StatusForbidden, "does not accept", "!alice")
	if e, _ := s.recorded(audit.Login); e.Outcome != audit.Denied || e.Actor.Account != "" {
		t.Errorf("recorded %+v", e)
	}

	// Too late.
	late := s.browser()
	back = late.callback(berthtest.Alice)
	s.pass(11 * time.Minute)
	late.open(back)
	late.want(http.StatusBadRequest, "took too long", "!alice")

	for _, query := range []string{"", "?state=", "?state=x&code=y", "?code=y", "?state=%00", "?" + strings.Repeat("a", 10_000)} {
		b := s.browser()
		b.open("/oidc/test/callback" + query)
		b.want(http.StatusBadRequest, "Sign-in failed")
		b.callback(berthtest.Alice)
		b.open("/oidc/test/callback" + query)
		b.want(http.StatusBadRequest, "Sign-in failed")
	}
}

func TestProviderSaysNo(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	back, err := url.Parse(b.callback(berthtest.Alice))
	s.must(err)
	q := url.Values{"state": {back.Query().Get("state")}, "error": {"access_denied"}, "error_description": {"<script>alert('x')</script>\x1b[2J" + strings.Repeat("long ", 1000)}}
	b.open(back.Path + "?" + q.Encode())
	b.want(http.StatusForbidden, "access_denied", "&lt;script&gt;", "!<script", "!\x1b", "…")
	if len(b.page.Body) > 4000 {
		t.Errorf("the page has %d bytes", len(b.page.Body))
	}
	if e, n := s.recorded(audit.Login); n != 1 || e.Outcome != audit.Denied || !strings.Contains(e.Reason, "access_denied") {
		t.Errorf("recorded %+v", e)
	}
	// Anybody can write a link with an error in it; it is not shown.
	b.open("/oidc/test/callback?error=your+account+is+closed,+call+555")
	b.want(http.StatusBadRequest, "!555")

	// One whose name cannot be an account's.
	b = s.browser()
	b.page = s.idp.SignIn(b.Client, s.URL+"/oidc/test", berthtest.Mallory)
	b.want(http.StatusForbidden, "does not accept", "!<b>")
}

func TestProviderGone(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	back := b.callback(berthtest.Alice)
	s.idp.Stop()
	b.open(back)
	b.want(http.StatusServiceUnavailable, "cannot be reached", "!127.0.0.1:", "!alice")
	s.apart.Store(int64(25 * time.Hour)) // what it knows of the provider is too old
	b.open("/oidc/test")
	b.want(http.StatusServiceUnavailable, "cannot be reached")
	s.idp.Start()
	s.apart.Store(0)
	s.signedIn(berthtest.Alice)
}

// A cookie is good for its purpose, until it expires, from this registry.
func TestCookieAttacks(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	b.callback(berthtest.Alice)
	signIn := b.cookies()["berth-sign-in-test"]
	b = s.signedIn(berthtest.Alice)
	good := b.cookies()["berth-session"]
	identity := map[string]any{"sub": "root", "source": "accounts"}
	otherPurpose, err := s.tokens.Seal("web-sign-in:test", identity, time.Hour)
	s.must(err)
	anonymous, err := s.tokens.Seal("web-session", map[string]any{"source": ""}, time.Hour)
	s.must(err)
	gone, err := s.tokens.Seal("web-session", map[string]any{"sub": "nobody", "source": "accounts"}, time.Hour)
	s.must(err)
	for name, value := range map[string]string{
		"sign-in": signIn, "other purpose": otherPurpose, "tampered": good[:len(good)-6] + "AAAAAA", "cut": good[:len(good)/2],
		"empty": "", "text": "alice", "huge": strings.Repeat("A", 100_000), "nobody": anonymous, "account that is not there": gone,
		"none": "eyJhbGciOiJub25lIn0" + good[strings.IndexByte(good, '.'):],
	} {
		x := s.browser()
		x.setCookie("berth-session", value)
		x.open("/")
		x.want(http.StatusOK, "!Sign out", "!API keys</h2>")
		x.post("/tokens", url.Values{"repos": {"**"}, "pull": {"on"}, "days": {"7"}}, nil)
		x.want(http.StatusOK, "!berth_")
		_ = name
	}
	// The session of one scheme is not taken for the other's.
	x := s.browser()
	x.setCookie("__Host-berth-session", good)
	x.open("/")
	x.want(http.StatusOK, "!Sign out")

	x = s.browser()
	x.setCookie("berth-session", good)
	x.open("/")
	x.want(http.StatusOK, "Sign out")
	s.revoked.Store(true)
	x.open("/")
	x.want(http.StatusOK, "!Sign out")
	s.revoked.Store(false)
	s.pass(11 * time.Hour)
	x.open("/")
	x.want(http.StatusOK, "Sign out")
	s.pass(2 * time.Hour)
	x.open("/")
	x.want(http.StatusOK, "!Sign out")
}

// Signing in gives another session than the one that was there before, planted by
// somebody else perhaps.
func TestSessionFixation(t *testing.T) {
	s := newSite(t, false, nil)
	planted := s.signedIn(berthtest.Bob).cookies()["berth-session"]
	b := s.browser()
	b.setCookie("berth-session", planted)
	b.page = s.idp.SignIn(b.Client, s.URL+"/oidc/test", berthtest.Alice)
	b.want(http.StatusOK, "test/alice@example.com", "!id-bob")
	if b.cookies()["berth-session"] == planted {
		t.Error("the session is the one that was planted")
	}
}

// Forms that other sites send do nothing.
func TestCrossSite(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.signedIn(berthtest.Alice)
	b.send("/tokens", map[string]string{"note": "laptop"})
	b.want(http.StatusCreated)
	keys, err := s.accounts.Keys(t.Context(), "")
	s.must(err)
	key := url.Values{"repos": {"**"}, "pull": {"on"}, "days": {"7"}}
	for name, h := range map[string]http.Header{
		"cross-site":     {"Sec-Fetch-Site": {"cross-site"}},
		"same-site":      {"Sec-Fetch-Site": {"same-site"}},
		"another origin": {"Sec-Fetch-Site": nil, "Origin": {"https://evil.example"}},
		"another port":   {"Sec-Fetch-Site": nil, "Origin": {"http://127.0.0.1:1"}},
		"sandboxed":      {"Sec-Fetch-Site": nil, "Origin": {"null"}},
	} {
		for _, path := range []string{"/tokens", "/logout", "/login", "/tokens/" + keys[0].ID + "/revoke"} {
			b.post(path, key, h)
			b.want(http.StatusForbidden, "from another site")
			_ = name
		}
	}
	b.open("/")
	b.want(http.StatusOK, "Sign out", "laptop")
	if left, err := s.accounts.Keys(t.Context(), ""); err != nil || len(left) != 1 {
		t.Errorf("keys are %v, %v", left, err)
	}
	// Nor does a link.
	for _, path := range []string{"/logout", "/tokens/" + keys[0].ID + "/revoke"} {
		b.open(path)
		b.want(http.StatusNotFound)
	}
	// Without TLS and Sec-Fetch-Site, the browser says the origin.
	b.post("/logout", nil, http.Header{"Sec-Fetch-Site": nil, "Origin": {s.URL}})
	b.want(http.StatusOK, "!Sign out")
}

// No page goes where a request says.
func TestOpenRedirect(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	evil := "https://evil.example/"
	q := url.Values{}
	for _, name := range []string{"next", "redirect", "redirect_uri", "return", "return_to", "url", "continue", "rd"} {
		q.Set(name, evil)
	}
	for _, path := range []string{"/login", "/", "/tokens", "/oidc/test", "/oidc/test/callback"} {
		p := b.open(path + "?" + q.Encode())
		if to := p.Header.Get("Location"); strings.Contains(to, "evil") {
			t.Errorf("%s leads to %s", path, to)
		}
	}
	form := maps.Clone(q)
	form.Set("account", local)
	form.Set("password", localPassword)
	if to := b.post("/login?"+q.Encode(), form, nil).Header.Get("Location"); to != "/" {
		t.Errorf("signing in leads to %q", to)
	}
	if to := b.post("/logout?"+q.Encode(), q, nil).Header.Get("Location"); to != "/" {
		t.Errorf("signing out leads to %q", to)
	}
}

func TestHugeForm(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	b.post("/login", url.Values{"account": {strings.Repeat("a", 1<<20)}}, nil)
	b.want(http.StatusBadRequest, "cannot be read")
	b.post("/login", url.Values{"account": slices.Repeat([]string{"a"}, 5000)}, nil)
	b.want(http.StatusForbidden)
}
