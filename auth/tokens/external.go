package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/watch"
)

const (
	externalLeeway = 30 * time.Second // for the clock of the token server
	// refetch is how often the key set is fetched; again, the least time between
	// two fetches, whatever keys tokens name.
	refetch = 5 * time.Minute
	again   = 30 * time.Second
	// maxTries bounds the signatures that are computed for a token without "kid".
	maxTries   = 8
	maxAccount = 255 // bytes of "sub"
)

// ExternalOptions are those of NewExternal. The first four must be set.
type ExternalOptions struct {
	Realm   string // URL where clients get tokens
	Service string // audience of the tokens, and what clients are told as service
	Issuer  string // of the tokens
	JWKS    string // URL or file of the key set (RFC 7517); plain HTTP only from this host
	CA      string // file of certificates, PEM, that the URL is trusted by in place of the system's; read once
	Now     func() time.Time
	Log     *slog.Logger
}

// External verifies the tokens of a token server that is not this registry (token
// specification). What such a token grants is all there is to know: policy is not
// asked. Its methods may be called concurrently.
type External struct {
	o      ExternalOptions
	client *http.Client // nil if the key set is a file
	keys   atomic.Pointer[[]jose.JSONWebKey]

	mu      sync.Mutex
	running *fetch    // under way, or nil
	last    time.Time // when one was started
}

// fetch is a fetch of the key set; err is set when done is closed.
type fetch struct {
	done chan struct{}
	err  error
}

// NewExternal checks the options. A key set in a file is read, and must be good;
// one at a URL is fetched when Run starts or the first token comes.
func NewExternal(o ExternalOptions) (*External, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Service == "" || o.Issuer == "" || o.JWKS == "" {
		return nil, errors.New("an external token server needs a service, an issuer and a key set")
	}
	if u, err := url.Parse(o.Realm); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("the realm of an external token server must be an http or https URL")
	}
	e := &External{o: o}
	var err error
	if strings.HasPrefix(o.JWKS, "http://") || strings.HasPrefix(o.JWKS, "https://") {
		e.client, err = newClient(o.JWKS, o.CA)
	} else {
		err = e.readFile()
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Realm is the URL where clients get tokens.
func (e *External) Realm() string { return e.o.Realm }

// Service is what clients ask for tokens for.
func (e *External) Service() string { return e.o.Service }

// externalClaims are the claims of a token that count.
type externalClaims struct {
	jwt.Claims
	Access []access `json:"access"`
}

// Verify returns whom a token is of, and until when it holds. Its account is the
// token's "sub", or "token" if that is empty; its Grants, not nil, are the entries
// of "access" that name repositories (see Service.Verify). The error is ErrInvalid
// or ErrExpired, with the reason, or another one if no key set could be got yet. A
// token that names an unknown key may wait for a fetch of the key set, as long as
// ctx lasts.
func (e *External) Verify(ctx context.Context, raw string) (*auth.Identity, time.Time, error) {
	token, header, err := parse(raw, externalAlgorithms())
	if err != nil {
		return nil, time.Time{}, err
	}
	keys := e.candidates(header)
	if len(keys) == 0 && e.client != nil {
		_ = e.fetch(ctx, false) // it is logged, and what counts is the keys that there are
		keys = e.candidates(header)
	}
	var c externalClaims
	switch {
	case e.keys.Load() == nil:
		return nil, time.Time{}, errors.New("the keys of the external token server are not known yet")
	case len(keys) == 0:
		return nil, time.Time{}, fmt.Errorf("%w: signed with a key that the token server does not list", ErrInvalid)
	case !verified(token, keys, &c):
		return nil, time.Time{}, fmt.Errorf("%w: not signed by the token server", ErrInvalid)
	}
	want := expected{issuer: e.o.Issuer, audience: e.o.Service, now: e.o.Now(), leeway: externalLeeway, over: externalLeeway}
	if err := want.check(&c.Claims); err != nil {
		return nil, time.Time{}, err
	}
	account := c.Subject
	if account == "" {
		account = "token"
	}
	if !validAccount(account) {
		return nil, time.Time{}, fmt.Errorf("%w: its subject is not text of at most %d bytes", ErrInvalid, maxAccount)
	}
	id := &auth.Identity{Source: "external", Account: account, Grants: grantsOf(c.Access), Scoped: true, Final: true}
	return id, c.Expiry.Time().Add(externalLeeway), nil
}

func validAccount(s string) bool {
	return len(s) <= maxAccount && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// candidates returns the keys that a token may be signed with: those that its
// header names, or all if it names none, and of them those that its algorithm is
// for.
func (e *External) candidates(h jose.Header) (keys []any) {
	set := e.keys.Load()
	if set == nil {
		return nil
	}
	for _, k := range *set {
		if (h.KeyID == "" || h.KeyID == k.KeyID) && fits(&k, h.Algorithm) && len(keys) < maxTries {
			keys = append(keys, k.Key)
		}
	}
	return keys
}

// verified reads the claims of a token that one of keys has signed.
func verified(token *jwt.JSONWebToken, keys []any, c *externalClaims) bool {
	for _, k := range keys {
		*c = externalClaims{}
		if token.Claims(k, c) == nil {
			return true
		}
	}
	return false
}

// Run keeps the key set up to date until ctx ends. One that cannot be read, or has
// no key that can be used, is logged, and the last good one stays in force.
func (e *External) Run(ctx context.Context) {
	if e.client == nil {
		e.watch(ctx)
		return
	}
	for {
		wait := refetch
		if e.fetch(ctx, true) != nil {
			wait = again
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (e *External) watch(ctx context.Context) {
	read := func() {
		if err := e.readFile(); err != nil {
			e.o.Log.ErrorContext(ctx, "The key set of the external token server is bad: the last good one stays in force", "file", e.o.JWKS, "error", err)
		}
	}
	wait := watch.Files(ctx, watch.Interval, read, e.o.JWKS)
	read() // it may have changed since NewExternal
	wait()
}

// fetch gets the key set, unless that was tried a moment ago and this is not due.
// Callers at the same time wait for the same fetch, each for as long as its ctx
// lasts.
func (e *External) fetch(ctx context.Context, due bool) error {
	e.mu.Lock()
	f, now := e.running, e.o.Now()
	if f == nil {
		if !due && now.Sub(e.last) < again {
			e.mu.Unlock()
			return nil
		}
		f = &fetch{done: make(chan struct{})}
		e.running, e.last = f, now
		go e.run(context.WithoutCancel(ctx), f)
	}
	e.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run does a fetch, which others than its first caller may wait for.
func (e *External) run(ctx context.Context, f *fetch) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if f.err = e.readURL(ctx); f.err != nil {
		e.o.Log.ErrorContext(ctx, "Cannot get the key set of the external token server: the last good one stays in force", "error", f.err)
	}
	e.mu.Lock()
	e.running = nil
	e.mu.Unlock()
	close(f.done)
}
