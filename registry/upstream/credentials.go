package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// source gives the credentials for an upstream.
type source interface {
	// credential returns them; its errors have no secrets in them.
	credential(ctx context.Context) (auth.Credential, error)
	// forget drops what was fetched before a time, when it was refused, and says
	// whether there was anything to drop.
	forget(before time.Time) bool
	// anonymous says that there are none.
	anonymous() bool
}

// endpoints are where providers' services are; empty for where they say.
type endpoints struct{ aws, azureLogin, azureIdentity string }

// newSource returns the source that the options name.
func (u *Upstream) newSource(at endpoints) (source, error) {
	o, ways := u.o, 0
	for _, set := range []bool{o.Username != "" || o.Password != "", o.Token != "", o.CredentialHelper != "", o.Provider != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		return nil, errors.New("upstream: of a username, a token, a credential helper and a provider only one may be set")
	}
	switch {
	case o.Username == identityUser:
		return static{auth.Credential{RefreshToken: o.Password}}, nil
	case (o.Username == "") != (o.Password == ""):
		return nil, errors.New("upstream: a username needs a password, and a password a username")
	case o.CredentialHelper != "":
		return u.newHelper()
	case o.Provider == "ecr":
		return u.newECR(at)
	case o.Provider == "gcr":
		return u.newGCR(), nil
	case o.Provider == "acr":
		return u.newACR(at), nil
	case o.Provider != "":
		return nil, fmt.Errorf(`upstream: provider %q is not known; want "ecr", "gcr" or "acr"`, o.Provider)
	default:
		return static{auth.Credential{Username: o.Username, Password: o.Password, AccessToken: o.Token}}, nil
	}
}

// identityUser is what credential helpers name the user whose secret is an
// identity token.
const identityUser = "<token>"

// static are credentials that do not change.
type static struct{ cred auth.Credential }

func (s static) credential(context.Context) (auth.Credential, error) { return s.cred, nil }
func (s static) forget(time.Time) bool                               { return false }
func (s static) anonymous() bool                                     { return s.cred == auth.EmptyCredential }

const (
	fetchTime  = 30 * time.Second // that fetching credentials may take
	fetchAgain = 5 * time.Second  // after a failure, which is everybody's until then
	earlier    = 5 * time.Minute  // than they expire, credentials are fetched anew
)

// fetched are credentials that are fetched, and kept until shortly before they
// expire.
type fetched struct {
	fetch func(ctx context.Context) (auth.Credential, time.Time, error)
	now   func() time.Time

	turn chan struct{} // held by who uses what follows

	cred  auth.Credential
	at    time.Time // when it was fetched, by the clock of the machine
	until time.Time // that cred, or err, is used
	err   error
}

func newFetched(now func() time.Time, fetch func(context.Context) (auth.Credential, time.Time, error)) *fetched {
	return &fetched{fetch: fetch, now: now, turn: make(chan struct{}, 1)}
}

// credential returns what was fetched, or fetches it, once for all who ask.
func (s *fetched) credential(ctx context.Context) (auth.Credential, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return auth.EmptyCredential, ctx.Err()
	}
	if s.now().Before(s.until) {
		return s.cred, s.err
	}
	began, now := time.Now(), s.now()
	limited, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	cred, expires, err := s.fetch(limited)
	if err != nil && ctx.Err() != nil {
		return auth.EmptyCredential, ctx.Err()
	}
	if err != nil {
		s.cred, s.err, s.until = auth.EmptyCredential, err, now.Add(fetchAgain)
		return s.cred, s.err
	}
	life := expires.Sub(now)
	s.cred, s.err, s.at = cred, nil, began
	s.until = expires.Add(-min(earlier, life/4))
	return cred, nil
}

// forget drops what is older than a time.
func (s *fetched) forget(before time.Time) bool {
	s.turn <- struct{}{} // who holds it has a limit of time
	defer func() { <-s.turn }()
	if s.err != nil || s.at.IsZero() || !s.at.Before(before) {
		return false
	}
	s.until, s.at = time.Time{}, time.Time{}
	return true
}

func (s *fetched) anonymous() bool { return false }
