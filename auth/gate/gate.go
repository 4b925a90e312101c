// Package gate finds out whose a request is, before the registry's server, the
// administration's and the pages: it reads the Authorization header and the
// client's certificate, asks those who know accounts, keys and tokens, and puts an
// auth.Session and an audit.Actor into the request's context. It also is the
// token endpoint, slows down who guesses passwords, and limits requests and bytes
// per account.
//
// It promises that credentials which are wrong, or no longer hold, are refused,
// and never taken for none; that what proved itself lately is found in memory
// and asks its source only whether it still holds; that a refusal tells neither
// by its text nor by its time whether there is such an account; and that no
// password, key or token gets into an error, a log or an event.
//
// It does not decide what somebody may do: a session is all that it adds to a
// request, and auth.Restrict holds the registry to it.
package gate

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Keys knows API keys. *accounts.Store does.
type Keys interface {
	// LoginKey returns who proves to be the account by an API key, or fails as
	// auth.Source's Login. With an empty account, the key alone says who it is.
	LoginKey(ctx context.Context, account, key string) (*auth.Identity, error)
	// KeyCurrent says whether the key with the id still holds. It must not wait.
	KeyCurrent(id string) bool
}

// Tokens makes and reads the registry's own tokens. *tokens.Service does.
type Tokens interface {
	// Issue returns a registry token for access, of an identity.
	Issue(id *auth.Identity, access []auth.Grant) (tokens.Token, error)
	// Verify returns whose a registry token is and until when, or fails with
	// tokens.ErrInvalid or tokens.ErrExpired.
	Verify(raw string) (*auth.Identity, time.Time, error)
	// IssueRefresh returns a token that more registry tokens are to be had for.
	IssueRefresh(ctx context.Context, id *auth.Identity) (string, error)
	// Refresh returns whose such a token is, or fails with tokens.ErrInvalid or
	// tokens.ErrExpired, or as its store does.
	Refresh(ctx context.Context, raw string) (*auth.Identity, error)
}

// External reads the tokens of an external token server. *tokens.External does.
type External interface {
	Verify(ctx context.Context, raw string) (*auth.Identity, time.Time, error)
	// Realm and Service are what the server is asked for tokens by.
	Realm() string
	Service() string
}

// Workload knows the ID tokens of jobs. *oidc.Workload does.
type Workload interface {
	// Login returns whose an ID token is and until when, or fails with
	// auth.ErrUnknown or auth.ErrWrong, or as the identity provider does.
	Login(ctx context.Context, token string) (*auth.Identity, time.Time, error)
	// Name is Identity.Source of those that it vouches for.
	Name() string
	Current(id *auth.Identity) bool
}

// Options are what a Gate is made of.
type Options struct {
	// Open turns access control off: everybody is auth.Anonymous, credentials are
	// not looked at, and there is no token endpoint.
	Open bool
	// Sources are asked in order for an account and a password, until one knows
	// the account or fails. Who signs in by another way must have its source here
	// too: what no source vouches for is refused. See Knower for accounts of the same
	// name.
	Sources  []auth.Source
	Keys     Keys     // or nil
	Tokens   Tokens   // or nil
	External External // or nil: registry tokens are our own
	Workload Workload // or nil
	// Certificate maps a client certificate, which TLS has verified, to who it is,
	// or to nil for nobody. Nil: certificates say nothing.
	Certificate func(*x509.Certificate) *auth.Identity
	// Authority is what tokens are granted by; nil grants nothing.
	Authority auth.Authority
	// Alias returns another name that a repository is pulled by, or nothing: who asks
	// for a token to pull from the one is granted what policy says of the other, too.
	// It may be nil.
	Alias func(repo string) string
	// Audit is told of logins and of credentials that were refused; nil for nobody.
	Audit audit.Recorder
	// Observe, if set, is called after each request that did not get further than
	// the gate: one that was refused, and one for a token.
	Observe func(context.Context, registry.Record)
	// Basic has clients send passwords with each request, rather than get tokens.
	Basic bool
	// Service is the name by which tokens are asked for.
	Service string
	// Realm is the URL of the token endpoint; empty for /token below Base.
	Realm string
	// Base is the external base URL of a request, without a slash at its end. Nil:
	// as the request itself says.
	Base   func(*http.Request) string
	Limits Limits
	// Meta is where processes that share it count failed logins together; nil if there
	// is one.
	Meta storage.Meta
	// Replicas says how many processes serve, each of which takes its part of Limits. It
	// must not wait. Nil: one.
	Replicas func() int
	// Look, if set, looks what other processes have changed of accounts and keys, so
	// that it is current.
	Look func(context.Context) error
	// Stale, if set, says that what other processes have changed has not been seen for
	// so long that no credentials can be trusted. It must not wait.
	Stale func() bool
	// PasswordCache is how long a password that was right is not looked at again;
	// a minute if 0. That it was changed is known at once all the same.
	PasswordCache time.Duration
	Now           func() time.Time // nil for time.Now
	Log           *slog.Logger     // nil for none
}

// Live is what can be changed of a Gate that works.
type Live struct {
	Limits Limits
	Basic  bool
}

// Gate finds out whose requests are. Its methods may be called concurrently.
type Gate struct {
	o       Options
	live    atomic.Pointer[Live]
	sources map[string]*source // by name
	chain   []*source          // in order; the last is nobody
	keyed   *sync.Pool         // of *keyedHash

	bearer   *recent[string, proof]
	basic    *recent[digest, proof]
	flights  singleflight.Group
	waiting  atomic.Int64 // logins that are being checked
	pace     pace
	throttle *throttle
	meters   *meters
}

const (
	// remembered is how many tokens, and how many passwords, are held in memory.
	remembered = 20_000
	// maxRemembered is the greatest length of a token that is held in memory, in
	// bytes. A longer one, of somebody in hundreds of groups, is verified each time.
	maxRemembered = 4096
	// maxLogins is how many logins may be waiting to be checked.
	maxLogins = 256
)

// New makes a gate.
func New(o Options) *Gate {
	if o.Base == nil {
		o.Base = baseOf
	}
	if o.PasswordCache == 0 {
		o.PasswordCache = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Authority == nil {
		o.Authority = (*auth.Policy)(nil)
	}
	if o.Replicas == nil {
		o.Replicas = func() int { return 1 }
	}
	if o.Audit == nil {
		o.Audit = audit.Func(func(context.Context, audit.Event) {})
	}
	g := &Gate{
		o: o, sources: map[string]*source{}, keyed: keyedHashes(),
		bearer:   newRecent[string, proof](remembered, 0),
		basic:    newRecent[digest, proof](remembered, 0),
		throttle: newThrottle(o.Now),
		meters:   newMeters(o.Limits, o.Now, o.Replicas),
	}
	if o.Meta != nil {
		g.throttle.shared, g.throttle.replicas = &guesses{meta: o.Meta, now: o.Now}, o.Replicas
	}
	var before []Knower
	for _, s := range o.Sources {
		l := limited(s)
		l.before = before
		if k, ok := s.(Knower); ok {
			before = append(slices.Clip(before), k)
		}
		g.chain = append(g.chain, l)
		g.sources[s.Name()] = l
	}
	g.chain = append(g.chain, limited(nobody{}))
	g.live.Store(&Live{Limits: o.Limits, Basic: o.Basic})
	return g
}

func baseOf(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// Set changes what can be changed. Limits start afresh.
func (g *Gate) Set(l Live) {
	g.live.Store(&l)
	g.meters.set(l.Limits)
}

// Run does what is to be done now and then, until ctx ends: it forgets failed logins
// that processes have counted together.
func (g *Gate) Run(ctx context.Context) {
	if g.throttle.shared == nil {
		return
	}
	tick := time.NewTicker(guessSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := g.throttle.shared.sweep(ctx); err != nil && ctx.Err() == nil {
			g.o.Log.WarnContext(ctx, "cannot forget failed logins; will try again", "error", err)
		}
	}
}

// Holds is Current, also for who is known by what another process has changed just now:
// a new key, another password. If need be it waits for a look at that.
func (g *Gate) Holds(ctx context.Context, id *auth.Identity) bool {
	if g.Current(id) {
		return true
	}
	return g.o.Look != nil && g.o.Look(ctx) == nil && g.Current(id)
}

// stale says that credentials cannot be trusted.
func (g *Gate) stale() bool { return g.o.Stale != nil && g.o.Stale() }

// Current says whether an identity still holds: its source knows the account,
// what it signed in by is the same, and so is its API key.
func (g *Gate) Current(id *auth.Identity) bool {
	switch {
	case id.Key != "" && (g.o.Keys == nil || !g.o.Keys.KeyCurrent(id.Key)):
		return false
	case id.Final:
		return g.o.External != nil
	case id.IsAnonymous():
		return id.Source == ""
	}
	if s := g.sources[id.Source]; s != nil {
		return s.Current(id)
	}
	if w := g.o.Workload; w != nil && w.Name() == id.Source {
		return w.Current(id)
	}
	return g.o.Certificate != nil && id.Source == CertificateSource
}
