package gate

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
)

// proof is what was found out of credentials, and until when that need not be
// done again.
type proof struct {
	id    *auth.Identity
	until time.Time
	took  time.Duration // to check a password, without waiting for a turn
}

const (
	// loginTime is how long sources may take to check a password.
	loginTime = 30 * time.Second
	// maxPassword is the greatest length of a password in bytes, of those that are
	// no token.
	maxPassword = 1024
)

// Login returns who proves to be the account by a password, an API key or a
// workload's ID token, for the client at an address. It fails with ErrCredentials,
// a *ThrottledError, or as a source fails.
func (g *Gate) Login(ctx context.Context, client, account, password string) (*auth.Identity, error) {
	f := from{client: client}
	if a := audit.FromContext(ctx); a != nil {
		f.request = a.Request
	}
	return g.login(ctx, f, account, password)
}

// login returns whose an account and a password are. A refusal takes its time, so
// that what it took to find out does not show.
func (g *Gate) login(ctx context.Context, f from, account, password string) (*auth.Identity, error) {
	key := g.digest(account, password)
	if p, ok := g.basic.get(key, g.o.Now()); ok {
		if g.o.Now().Before(p.until) && g.Current(p.id) {
			return p.id, nil
		}
		g.basic.drop(key)
	}
	id, took, err := g.loginOnce(ctx, f, key, account, password)
	if errors.Is(err, ErrCredentials) {
		_ = sleep(ctx, g.pace.rest(took)) // the answer to one who has gone may come at any time
	}
	return id, err
}

// failed tells the audit of a login that failed.
func (g *Gate) failed(ctx context.Context, f from, account string, err error) {
	e := audit.Event{Kind: audit.Login, Outcome: audit.Failed, Subject: shown(account), Reason: "the source of the account failed"}
	switch {
	case errors.Is(err, ErrThrottled):
		e.Outcome, e.Reason = audit.Denied, "too many failed logins"
	case errors.Is(err, ErrCredentials):
		e.Outcome, e.Reason = audit.Denied, ErrCredentials.Error()
	}
	g.record(ctx, f, auth.Anonymous, e)
}

// shown is what is recorded of an account that somebody claims to be: nothing if
// it is an API key or a token that came into the wrong field.
func shown(account string) string {
	if !soundName(account) || strings.HasPrefix(account, "berth_") || strings.HasPrefix(account, "berthr_") || isJWT(account) {
		return ""
	}
	return account
}

// loginOnce checks a password once for all who send it from the same place at the
// same time. It goes on without a client that does not wait for the answer, and
// tells the audit what came of it. It also says how long the sources took.
func (g *Gate) loginOnce(ctx context.Context, f from, key digest, account, password string) (*auth.Identity, time.Duration, error) {
	done := g.flights.DoChan(string(key[:])+network(f.client), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loginTime)
		defer cancel()
		p, err := g.check(ctx, f.client, account, password)
		if err != nil {
			g.failed(ctx, f, account, err)
			return p, err
		}
		g.basic.put(key, p, g.o.Now())
		g.record(ctx, f, p.id, audit.Event{Kind: audit.Login, Outcome: audit.OK})
		return p, nil
	})
	select {
	case res := <-done:
		p, _ := res.Val.(proof)
		return p.id, p.took, res.Err
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// recovered makes an error of a panic, which in a goroutine of its own would end
// the process. What a source panics with may tell a secret.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = errors.New("panic while checking credentials")
	}
}

// check checks a password, as far as the throttle allows.
func (g *Gate) check(ctx context.Context, client, account, password string) (p proof, err error) {
	defer recovered(&err)
	try, err := g.throttle.begin(ctx, guessed(account, password), client)
	if err != nil {
		return proof{}, err
	}
	ended := unknown
	defer func() { try.end(ctx, ended) }()
	if err := sleep(ctx, try.wait); err != nil {
		return proof{}, err
	}
	if g.waiting.Add(1) > maxLogins {
		g.waiting.Add(-1)
		return proof{}, &ThrottledError{After: time.Second}
	}
	defer g.waiting.Add(-1)
	p, err = g.ask(ctx, account, password)
	switch {
	case err == nil && !g.Holds(ctx, p.id), errors.Is(err, auth.ErrUnknown), errors.Is(err, auth.ErrWrong):
		ended = wrong
		return proof{took: p.took}, ErrCredentials
	case err != nil:
		return proof{}, err
	}
	ended = right
	return p, nil
}

// guessed is what somebody would have to guess a secret of: the account, or the
// API key. Many who share an address sign in with keys as "token". What a token of
// an identity provider says nobody can guess.
func guessed(account, password string) string {
	switch {
	case isKey(password):
		return password[:strings.LastIndexByte(password, '_')]
	case isJWT(password):
		return password
	}
	return account
}

// ask asks those who know what the password looks like.
func (g *Gate) ask(ctx context.Context, account, password string) (proof, error) {
	until := g.o.Now().Add(g.o.PasswordCache)
	switch {
	case g.o.Keys != nil && isKey(password):
		id, err := g.o.Keys.LoginKey(ctx, account, password)
		if err = some(id, err); err == nil && !g.keeps(id) {
			id, err = g.afresh(ctx, id) // a key must not outlive the account in its directory
		}
		return proof{id: id, until: until}, err
	case g.o.Workload != nil && isJWT(password):
		id, expires, err := g.o.Workload.Login(ctx, password)
		if expires.Before(until) {
			until = expires
		}
		return proof{id: id, until: until}, some(id, err)
	case !soundName(account) || password == "" || len(password) > maxPassword:
		return proof{}, auth.ErrWrong // an empty one is no password to LDAP: RFC 4513, section 5.1.2
	}
	p := proof{until: until}
	for _, s := range g.chain {
		id, took, err := s.login(ctx, account, password)
		p.took += took
		if !errors.Is(err, auth.ErrUnknown) {
			p.id = id
			return p, some(id, err)
		}
	}
	return p, auth.ErrUnknown
}

// keeps says whether who keeps API keys is also the source of the owner of one, whom
// it has just looked up: a key need not wait for passwords that are being checked.
func (g *Gate) keeps(id *auth.Identity) bool {
	s := g.sources[id.Source]
	return s != nil && any(s.Source) == any(g.o.Keys)
}

// some fails if there is neither an identity nor an error.
func some(id *auth.Identity, err error) error {
	if err == nil && id == nil {
		return errors.New("a source named nobody")
	}
	return err
}

// sleep waits, or fails when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
