// Package tokens makes and reads the tokens of a registry: those that its token
// endpoint gives to clients, the refresh tokens by which they get others, and
// those of an external token server.
//
// A registry token is a JSON Web Token (RFC 7519) with the claims of the
// distribution token specification, "Token Authentication Implementation", signed
// with ECDSA P-256 (ES256, RFC 7518 section 3.4). The keys are rows of the
// metadata store, so that all replicas share them and a restart logs nobody out: one
// of them makes each key, and what is signed with it is known by all others at once.
// One key signs at a time; a key that has been replaced goes on verifying for as
// long as anything that it signed can be valid, MaxLife.
//
// A token that Verify accepts was signed by this registry for this registry, and
// its time has not passed. Whether its account still exists, its API key or its
// password is still the same, and what policy says now, is not asked here: that is
// for the caller (auth.Source, auth.Authority). A registry token cannot be revoked
// by itself.
//
// Keys lie in the metadata store unencrypted: whoever can read the store can sign.
package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/internal/rounds"
	"github.com/berth-registry/berth/storage"
)

// Errors of Verify, Open and Refresh. What wraps them says more, and may be shown
// to the client.
var (
	// ErrInvalid says that a token is not one, or not for this use here.
	ErrInvalid = errors.New("invalid token")
	// ErrExpired says that a token was good, and its time has passed.
	ErrExpired = errors.New("token has expired")
)

const (
	// MaxLife is the longest time that anything signed is valid: it bounds
	// Options.TTL and Seal, and so how long a replaced key must be kept.
	MaxLife = 24 * time.Hour
	// MaxText is the greatest length of a signed token in bytes. A longer one is
	// neither issued nor read.
	MaxText = 16 << 10

	maxRefreshTTL = 10 * 365 * 24 * time.Hour

	// skew is how much the clocks of replicas may differ.
	skew = 5 * time.Second
)

// Options are those of New.
type Options struct {
	// Service is the name of the registry: audience and issuer of its tokens, and
	// what clients are told as service. It must be set. Tokens signed under
	// another name are not valid.
	Service string
	// TTL is how long a registry token is valid: 5 minutes if zero, MaxLife at
	// most. Clients take 60 seconds for the least (token specification,
	// "expires_in").
	TTL time.Duration
	// RefreshTTL is how long a refresh token is valid after it was used last: 30
	// days if zero, ten years at most. No use extends it beyond twelve times that after its issue.
	RefreshTTL time.Duration
	// Rotate is how long a key signs: 30 days if zero, a minute at least.
	Rotate time.Duration
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Log takes what Run cannot return; nothing is logged if it is nil.
	Log *slog.Logger
}

func (o *Options) check() error {
	o.TTL = defaultTo(o.TTL, 5*time.Minute)
	o.RefreshTTL = defaultTo(o.RefreshTTL, 30*24*time.Hour)
	o.Rotate = defaultTo(o.Rotate, 30*24*time.Hour)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Service == "":
		return errors.New("tokens need the name of their service")
	case o.TTL < time.Second || o.TTL > MaxLife:
		return fmt.Errorf("a registry token cannot be valid for %v: want from 1s to %v", o.TTL, MaxLife)
	case o.RefreshTTL < time.Second || o.RefreshTTL > maxRefreshTTL:
		return fmt.Errorf("a refresh token cannot be valid for %v: want from 1s to %v", o.RefreshTTL, maxRefreshTTL)
	case o.Rotate < time.Minute:
		return fmt.Errorf("a key cannot sign for %v: want 1m or more", o.Rotate)
	}
	return nil
}

func defaultTo(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// Service issues and verifies tokens. Its methods may be called concurrently.
type Service struct {
	meta    storage.Meta
	shared  bool // other processes may write to meta
	o       Options
	looks   *rounds.Rounds
	loading sync.Mutex // held while a newer ring is got: an older one never replaces it
	ring    atomic.Pointer[ring]
	nudge   chan struct{} // a token names a key that is not in the ring
}

// New returns the service of a store. If the store has no key that can sign, it
// makes one; of several replicas that start at once, one does. Run keeps the keys
// up to date.
func New(ctx context.Context, meta storage.Meta, o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	_, alone := meta.(storage.Versioner)
	s := &Service{meta: meta, shared: !alone, o: o, nudge: make(chan struct{}, 1)}
	s.looks = rounds.New(s.load, apart, lookTime)
	s.ring.Store(&ring{})
	if err := s.reload(ctx); err != nil {
		return nil, fmt.Errorf("keys that sign tokens: %w", err)
	}
	return s, nil
}

func (s *Service) now() time.Time { return s.o.Now() }
