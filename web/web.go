// Package web is the registry's pages: how to use it, signing in, and API keys to
// push and pull with.
//
// They are plain HTML: they need no script, and forbid any. Who has signed in is
// in a cookie that the registry has signed, so that every replica knows it; it
// says who somebody is, and is asked for its source on every request (Current). It
// cannot be read by scripts or sent by other sites' forms, and it is not
// encrypted. A form that another site sends is refused; no page redirects to where
// a request says.
//
// The package does not check passwords and does not decide what somebody may do.
// Signing out makes the browser forget its cookie; a copy of it is good until it
// expires.
package web

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
)

// Provider is an identity provider that people sign in by. *oidc.Provider is one.
type Provider interface {
	// Name is in URLs and on a button.
	Name() string
	// AuthURL is where a browser is sent, to come back to redirectURL with state
	// and a code.
	AuthURL(ctx context.Context, redirectURL, state, nonce, verifier string) (string, error)
	// Exchange returns who came back, or fails with auth.ErrWrong, or as the
	// provider does.
	Exchange(ctx context.Context, redirectURL, code, nonce, verifier string) (*auth.Identity, error)
}

// Sessions signs what a browser keeps. *tokens.Service does.
type Sessions interface {
	// Seal signs claims, which encoding/json can write, for a purpose and a time.
	Seal(purpose string, claims any, ttl time.Duration) (string, error)
	// Open reads them again.
	Open(purpose, raw string, claims any) error
}

// Keys keeps API keys. *accounts.Store does.
type Keys interface {
	// CreateKey makes a key and returns its text too. It fails with
	// accounts.ErrKey or accounts.ErrName if there cannot be such a key.
	CreateKey(ctx context.Context, k accounts.NewKey) (accounts.Key, string, error)
	// Keys lists the keys of accounts of that name, whatever their source.
	Keys(ctx context.Context, account string) ([]accounts.Key, error)
	// RevokeKey removes a key, or fails with auth.ErrUnknown.
	RevokeKey(ctx context.Context, id string) (accounts.Key, error)
}

// Options are what the pages are made of.
type Options struct {
	Title     string     // "Berth" if empty
	Providers []Provider // in the order of their buttons
	// Password returns who proves to be an account by a password; client is the
	// address that it comes from. It fails with auth.ErrWrong, an error that has a
	// method RetryAfter() time.Duration, or as a source fails, and keeps the record
	// of logins.
	// Nil: there is no form.
	Password func(ctx context.Context, client, account, password string) (*auth.Identity, error)
	Sessions Sessions
	// Current says whether an identity still holds. It may wait for a moment if it seems
	// that it does not, and another server may know better.
	Current func(context.Context, *auth.Identity) bool
	Keys    Keys
	// Base is the external base URL of a request, without a slash at its end.
	Base  func(*http.Request) string
	Audit audit.Recorder   // nil: no record
	Log   *slog.Logger     // nil: no log
	Now   func() time.Time // nil: time.Now
}

//go:embed templates assets
var files embed.FS

// pages is a handler of all pages.
type pages struct {
	Options
	providers map[string]Provider
	templates *template.Template
	style     string // URL of the style sheet
}

// New returns the handler of all pages: GET /, /login, /tokens, /oidc/... and
// /assets/..., and the forms of these.
func New(o Options) (http.Handler, error) {
	p := &pages{Options: o, providers: map[string]Provider{}}
	if o.Sessions == nil || o.Keys == nil || o.Base == nil || o.Current == nil {
		return nil, errors.New("pages need sessions, keys, a base and what is current")
	}
	for _, provider := range o.Providers {
		if p.providers[provider.Name()] != nil {
			return nil, fmt.Errorf("two identity providers have the name %s", provider.Name())
		}
		p.providers[provider.Name()] = provider
	}
	if p.Title == "" {
		p.Title = "Berth"
	}
	if p.Audit == nil {
		p.Audit = audit.Func(func(context.Context, audit.Event) {})
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	var err error
	if p.templates, err = template.ParseFS(files, "templates/*.html"); err != nil {
		return nil, err
	}
	style, err := files.ReadFile("assets/berth.css")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(style)
	p.style = "/assets/berth.css?v=" + hex.EncodeToString(sum[:6])
	return p.handler(), nil
}

func (p *pages) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.home)
	mux.HandleFunc("GET /login", p.loginForm)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("POST /logout", p.logout)
	mux.HandleFunc("GET /oidc/{name}", p.leave)
	mux.HandleFunc("GET /oidc/{name}/callback", p.comeBack)
	mux.HandleFunc("GET /tokens", p.home)
	mux.HandleFunc("POST /tokens", p.createKey)
	mux.HandleFunc("POST /tokens/{id}/revoke", p.revokeKey)
	mux.HandleFunc("GET /assets/{file}", p.asset)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { p.fail(w, r, notFound) })

	foreign := http.NewCrossOriginProtection()
	foreign.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.fail(w, r, crossSite) }))
	guarded := foreign.Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		guarded.ServeHTTP(w, r)
	})
}

// maxForm is the size of the largest form that is read, in bytes.
const maxForm = 64 << 10

// secure sets the headers of all answers. The referrer policy is not
// "no-referrer", with which browsers do not say either from which origin a form
// is, and over plain HTTP that is all that tells our own.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
}

// asset serves a file that is the same for all. The style sheet's URL changes
// with it.
func (p *pages) asset(w http.ResponseWriter, r *http.Request) {
	var name string
	switch r.PathValue("file") {
	case "berth.css":
		name = "assets/berth.css"
	case "favicon.svg":
		name = "assets/favicon.svg"
	default:
		p.fail(w, r, notFound)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=86400")
	http.ServeFileFS(w, r, files, name)
}
