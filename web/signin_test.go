package web_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/web"
)

func TestHome(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	b.open("/")
	b.want(http.StatusOK, "docker login "+strings.TrimPrefix(s.URL, "http://"), `href="/login"`, "!Sign out", "!<script")
	b.open("/tokens")
	b.want(http.StatusOK, "Continue with test", `name="password"`)
	if b.page.URL.Path != "/login" {
		t.Errorf("/tokens leads to %s", b.page.URL)
	}
	for _, path := range []string{"/nothing", "/oidc/other", "/oidc/other/callback", "/assets/", "/assets/..%2fweb.go", "/assets/x.css", "/oidc/test/", "//evil.example/"} {
		b.open(path)
		b.want(http.StatusNotFound, "There is no such page")
	}
	for _, path := range []string{"/login", "/nothing", "/assets/berth.css", "/oidc/test/callback"} {
		h := b.open(path).Header
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
		} {
			if !strings.HasPrefix(h.Get(name), want) {
				t.Errorf("%s: %s is %q", path, name, h.Get(name))
			}
		}
		if cached := h.Get("Cache-Control"); (cached == "no-store") == strings.HasPrefix(path, "/assets/") {
			t.Errorf("%s: Cache-Control is %q", path, cached)
		}
	}
	if got := b.open("/assets/berth.css").Header.Get("Content-Type"); !strings.HasPrefix(got, "text/css") {
		t.Errorf("style sheet is %s", got)
	}
	if got := b.open("/assets/favicon.svg").Header.Get("Content-Type"); got != "image/svg+xml" {
		t.Errorf("icon is %s", got)
	}
}

func TestSignInByProvider(t *testing.T) {
	for name, secure := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, secure, nil)
			b := s.signedIn(berthtest.Alice)
			b.want(http.StatusOK, "test/alice@example.com", "oidc:test", "developers", "Sign out", "You have no keys yet")
			u, err := url.Parse(s.URL)
			s.must(err)
			for _, c := range b.Jar.Cookies(u) {
				if want := map[bool]string{true: "__Host-berth-session", false: "berth-session"}[secure]; c.Name != want {
					t.Errorf("cookie %s is left, want %s only", c.Name, want)
				}
			}
			e, n := s.recorded(audit.Login)
			if n != 1 || e.Outcome != audit.OK || e.Actor.Account != "test/alice@example.com" || e.Actor.Source != "oidc:test" || e.Actor.Client != "127.0.0.1" || e.Actor.Request == "" {
				t.Errorf("recorded %d: %+v", n, e)
			}
			if b.open("/login"); b.page.URL.Path != "/" {
				t.Errorf("one who has signed in is shown %s", b.page.URL)
			}
			b.send("/logout", nil)
			b.want(http.StatusOK, "!alice", "Sign in")
			if len(b.Jar.Cookies(u)) > 0 {
				t.Errorf("cookies are left: %v", b.Jar.Cookies(u))
			}
		})
	}
}

// What the cookies look like on the wire.
func TestCookies(t *testing.T) {
	for name, secure := range map[string]bool{"http": false, "https": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, secure, nil)
			b := s.browser()
			b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			check := func(p *berthtest.Page, purpose string) {
				t.Helper()
				set := p.Header.Values("Set-Cookie")
				if len(set) == 0 {
					t.Fatalf("%s sets no cookie", p.URL)
				}
				for _, c := range set {
					if !strings.Contains(c, purpose) || !strings.Contains(c, "; HttpOnly") || !strings.Contains(c, "; SameSite=Lax") || !strings.Contains(c, "; Path=/;") ||
						strings.Contains(c, "; Secure") != secure || strings.HasPrefix(c, "__Host-") != secure || strings.Contains(c, "Domain") {
						t.Errorf("cookie %s", c)
					}
				}
			}
			check(b.open("/oidc/test"), "berth-sign-in-test")
			b.open("/login")
			check(b.send("/login", map[string]string{"account": local, "password": localPassword}), "berth-session")
		})
	}
}

func TestSignInByPassword(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	b.open("/login")
	b.send("/login", map[string]string{"account": local, "password": localPassword})
	b.want(http.StatusOK, "carol", "crew", "accounts")
	if b.page.URL.Path != "/" {
		t.Errorf("it leads to %s", b.page.URL)
	}
	// The session is over when the password is another.
	s.must(s.accounts.SetPassword(t.Context(), local, "another password"))
	b.open("/")
	b.want(http.StatusOK, "!carol", "Sign in")
}

// Whoever it was, the answer is the same; what was typed is not in it, but for the
// name, which is escaped.
func TestWrongPassword(t *testing.T) {
	s := newSite(t, false, nil)
	key, text, err := s.accounts.CreateKey(t.Context(), newKey())
	s.must(err)
	job := s.idp.Token(berthtest.GitHubClaims("berth", "acme/web", "refs/heads/main"))
	if _, err := s.gate.Login(t.Context(), "127.0.0.9", "x", job); err != nil {
		t.Fatal(err) // it is good, or the case below would prove nothing
	}
	var bodies []string
	for _, c := range [][2]string{
		{local, "wrong password"},
		{"nobody", "wrong password"},
		{"test/alice@example.com", berthtest.IDPPassword},
		{local, text},
		{"token", text},
		{"job", job},
		{`"><script>alert(1)</script>`, "wrong password"},
		{"", ""},
		{local, ""},
		{strings.Repeat("a", 10_000), "x"},
	} {
		s.pass(time.Hour) // the throttle is another test's
		b := s.browser()
		b.open("/login")
		b.post("/login", url.Values{"account": {c[0]}, "password": {c[1]}}, nil)
		b.want(http.StatusForbidden, "No such account, or wrong password.", "!<script", "!"+text, "!"+job)
		if len(b.page.Header.Values("Set-Cookie")) > 0 {
			t.Errorf("%q gets a cookie", c[0])
		}
		if len(c[0]) < 30 && !strings.Contains(c[0], "<") && c[0] != "" {
			bodies = append(bodies, strings.ReplaceAll(b.page.Body, `value="`+c[0]+`"`, ""))
		}
	}
	for _, body := range bodies[1:] {
		if body != bodies[0] {
			t.Errorf("answers differ:\n%s\n%s", bodies[0], body)
		}
	}
	if log := s.logged(); strings.Contains(log, "wrong password") || strings.Contains(log, key.ID) {
		t.Errorf("the log tells secrets:\n%s", log)
	}
}

func TestThrottle(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.browser()
	for range 100 {
		b.open("/login")
		b.send("/login", map[string]string{"account": local, "password": "wrong"})
		if b.page.Status == http.StatusTooManyRequests {
			b.want(http.StatusTooManyRequests, "Too many attempts to sign in. Try again in ", "second")
			if b.page.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return
		}
		b.want(http.StatusForbidden)
		s.pass(time.Millisecond)
	}
	t.Error("passwords can be guessed without end")
}

func TestSourceDown(t *testing.T) {
	s := newSite(t, false, func(o *web.Options) {
		o.Password = func(context.Context, string, string, string) (*auth.Identity, error) {
			return nil, errors.New("ldap: connection to 10.0.0.7 refused")
		}
	})
	b := s.browser()
	b.open("/login")
	b.send("/login", map[string]string{"account": local, "password": localPassword})
	b.want(http.StatusServiceUnavailable, "at the moment", "!10.0.0.7")
	if !strings.Contains(s.logged(), "10.0.0.7") {
		t.Error("the log does not tell")
	}
}

func TestNoPasswords(t *testing.T) {
	s := newSite(t, false, func(o *web.Options) { o.Password = nil })
	b := s.browser()
	b.open("/login")
	b.want(http.StatusOK, "Continue with test", `!name="password"`)
	b.post("/login", url.Values{"account": {local}, "password": {localPassword}}, nil)
	b.want(http.StatusNotFound)
	s = newSite(t, false, func(o *web.Options) { o.Password, o.Providers = nil, nil })
	b = s.browser()
	b.open("/login")
	b.want(http.StatusOK, "no way to sign in")
	b.open("/")
	b.want(http.StatusOK, "!Sign in", "administrator")
}

// A session that no browser would keep is not begun.
func TestManyGroups(t *testing.T) {
	groups := func(n int) func(*web.Options) {
		return func(o *web.Options) {
			o.Current = func(context.Context, *auth.Identity) bool { return true }
			o.Password = func(context.Context, string, string, string) (*auth.Identity, error) {
				id := &auth.Identity{Account: "dave", Source: "ldap"}
				for range n {
					id.Groups = append(id.Groups, "0123456789abcdef")
				}
				return id, nil
			}
		}
	}
	b := newSite(t, false, groups(500)).browser()
	b.open("/login")
	b.send("/login", map[string]string{"account": "dave", "password": "x"})
	b.want(http.StatusForbidden, "more groups")
	if len(b.page.Header.Values("Set-Cookie")) > 0 {
		t.Error("a cookie is set")
	}
	b = newSite(t, false, groups(80)).browser()
	b.open("/login")
	b.send("/login", map[string]string{"account": "dave", "password": "x"})
	b.want(http.StatusOK, "Your account", "dave")
}
