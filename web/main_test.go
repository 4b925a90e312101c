package web_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/net/html"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
	"github.com/berth-registry/berth/auth/oidc"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/web"
)

// local is the account that the registry knows itself.
const (
	local         = "carol"
	localPassword = "carol's password"
)

// site is the pages with all that they stand on: a store, accounts, tokens, the
// gate, and an identity provider.
type site struct {
	*httptest.Server
	t        *testing.T
	handler  http.Handler
	idp      *berthtest.IDP
	provider *oidc.Provider
	accounts *accounts.Store
	tokens   *tokens.Service
	gate     *gate.Gate
	workload *oidc.Workload
	ahead    atomic.Int64 // of the clock
	apart    atomic.Int64 // of the clock that the provider's tokens are looked at by
	revoked  atomic.Bool  // what every session is

	mu     sync.Mutex
	events []audit.Event
	log    strings.Builder
}

func (s *site) now() time.Time        { return time.Now().Add(time.Duration(s.ahead.Load())) }
func (s *site) pass(by time.Duration) { s.ahead.Add(int64(by)) }

// Record implements audit.Recorder.
func (s *site) Record(ctx context.Context, e audit.Event) {
	if a := audit.FromContext(ctx); a != nil && e.Actor == (audit.Actor{}) {
		e.Actor = *a
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// Write takes the log.
func (s *site) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// recorded is the last event of a kind, and how many there are.
func (s *site) recorded(kind audit.Kind) (last audit.Event, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Kind == kind {
			last, n = e, n+1
		}
	}
	return last, n
}

func (s *site) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// throttled is the gate's error as the pages know it.
type throttled struct{ *gate.ThrottledError }

func (e throttled) RetryAfter() time.Duration { return e.After }

// newSite starts the pages, on https if secure is true; change may change their
// options.
func newSite(t *testing.T, secure bool, change func(*web.Options)) *site {
	t.Helper()
	meta, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	s := newSiteOn(t, meta, berthtest.StartIDP(t))
	s.must(s.accounts.Create(t.Context(), accounts.Account{Name: local, Groups: []string{"crew"}}, localPassword))
	s.serve(secure, change)
	return s
}

// newSiteOn makes what the pages stand on, over a store.
func newSiteOn(t *testing.T, meta storage.Meta, idp *berthtest.IDP) *site {
	t.Helper()
	s := &site{t: t, idp: idp}
	var err error
	s.accounts, err = accounts.New(t.Context(), meta, accounts.Options{Now: s.now, Cost: bcrypt.MinCost})
	s.must(err)
	s.tokens, err = tokens.New(t.Context(), meta, tokens.Options{Service: "berth", Now: s.now})
	s.must(err)
	s.provider, err = oidc.NewProvider(oidc.Options{
		Name: "test", Issuer: s.idp.Issuer, ClientID: s.idp.ClientID, ClientSecret: s.idp.Secret,
		Now: func() time.Time { return time.Now().Add(time.Duration(s.apart.Load())) },
	})
	s.must(err)
	s.workload, err = oidc.NewWorkload([]oidc.WorkloadOptions{{Name: "ci", Issuer: s.idp.Issuer, Audience: "berth", Claims: map[string]string{"repository": "acme/*"}}})
	s.must(err)
	s.gate = gate.New(gate.Options{
		Sources: []auth.Source{s.accounts, s.provider.Source()}, Keys: s.accounts, Tokens: s.tokens, Workload: s.workload,
		Service: "berth", Audit: s, Now: s.now, Look: s.accounts.Look,
	})
	return s
}

func (s *site) serve(secure bool, change func(*web.Options)) {
	s.t.Helper()
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	o := web.Options{
		Providers: []web.Provider{s.provider}, Sessions: s.tokens, Keys: s.accounts,
		Password: func(ctx context.Context, client, account, password string) (*auth.Identity, error) {
			id, err := s.gate.Login(ctx, client, account, password)
			if e, ok := errors.AsType[*gate.ThrottledError](err); ok {
				err = throttled{e}
			}
			return id, err
		},
		Current: func(ctx context.Context, id *auth.Identity) bool { return !s.revoked.Load() && s.gate.Holds(ctx, id) },
		Base:    func(r *http.Request) string { return scheme + r.Host },
		Audit:   s, Log: slog.New(slog.NewTextHandler(s, nil)), Now: s.now,
	}
	if change != nil {
		change(&o)
	}
	h, err := web.New(o)
	s.must(err)
	h = s.gate.Identify(h)
	s.handler = h
	if secure {
		s.Server = httptest.NewTLSServer(h)
	} else {
		s.Server = httptest.NewServer(h)
	}
	s.t.Cleanup(s.Close)
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// browser is one that fills in forms.
type browser struct {
	*http.Client
	s    *site
	page *berthtest.Page
}

func (s *site) browser() *browser {
	jar, err := cookiejar.New(nil)
	s.must(err)
	b := &browser{Client: &http.Client{Jar: jar, Transport: s.Client().Transport, Timeout: time.Minute}, s: s}
	s.t.Cleanup(b.CloseIdleConnections)
	return b
}

// signedIn is a browser in which a user of the provider has signed in.
func (s *site) signedIn(user string) *browser {
	s.t.Helper()
	b := s.browser()
	b.page = s.idp.SignIn(b.Client, s.URL+"/oidc/test", user)
	if b.page.Status != http.StatusOK || b.page.URL.Path != "/" {
		s.t.Fatalf("signing in as %s leads to %s: %d\n%s", user, b.page.URL, b.page.Status, b.page.Body)
	}
	return b
}

func (b *browser) do(r *http.Request) *berthtest.Page {
	b.s.t.Helper()
	resp, err := b.Do(r)
	b.s.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	b.s.must(err)
	b.page = &berthtest.Page{URL: resp.Request.URL, Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
	return b.page
}

// open opens a page of the site.
func (b *browser) open(path string) *berthtest.Page {
	b.s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, b.s.URL+path, nil)
	b.s.must(err)
	return b.do(r)
}

// form finds the form of the page that is sent to a path, with what it sends as it
// stands.
func (b *browser) form(action string) url.Values {
	b.s.t.Helper()
	doc, err := html.Parse(strings.NewReader(b.page.Body))
	b.s.must(err)
	for n := range doc.Descendants() {
		if n.Data == "form" && attr(n, "action") == action && attr(n, "method") == "post" {
			return fields(n)
		}
	}
	b.s.t.Fatalf("%s has no form for %s:\n%s", b.page.URL, action, b.page.Body)
	return nil
}

func fields(form *html.Node) url.Values {
	v := url.Values{}
	for n := range form.Descendants() {
		switch {
		case n.Data == "input" && (attr(n, "type") != "checkbox" || has(n, "checked")):
			v.Add(attr(n, "name"), attr(n, "value"))
		case n.Data == "option" && has(n, "selected"):
			v.Add(attr(n.Parent, "name"), attr(n, "value"))
		}
	}
	return v
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	for _, a := range n.Attr {
		if a.Key == name {
			return true
		}
	}
	return false
}

// send fills in a form of the page and sends it. An empty value takes a field out.
func (b *browser) send(action string, fill map[string]string) *berthtest.Page {
	b.s.t.Helper()
	v := b.form(action)
	for name, value := range fill {
		if v.Set(name, value); value == "" {
			v.Del(name)
		}
	}
	return b.post(action, v, nil)
}

func (b *browser) post(path string, v url.Values, header http.Header) *berthtest.Page {
	b.s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, b.s.URL+path, strings.NewReader(v.Encode()))
	b.s.must(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	maps.Copy(r.Header, header)
	return b.do(r)
}

// want fails the test unless the page has a status and texts; one that starts with
// "!" must not be there.
func (b *browser) want(status int, texts ...string) {
	b.s.t.Helper()
	if b.page.Status != status {
		b.s.t.Errorf("%s: status %d, want %d\n%s", b.page.URL, b.page.Status, status, b.page.Body)
	}
	for _, text := range texts {
		wanted := strings.TrimPrefix(text, "!")
		if strings.Contains(b.page.Body, wanted) != (wanted == text) {
			b.s.t.Errorf("%s: want %q in it:\n%s", b.page.URL, text, b.page.Body)
		}
	}
}

func TestMain(m *testing.M) { berthtest.Main(m) }
