package gate

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
)

// verify returns whose a Bearer token is: a registry token, or an API key.
func (g *Gate) verify(ctx context.Context, f from, raw string) (*auth.Identity, error) {
	if g.o.Keys != nil && isKey(raw) {
		id, err := g.login(ctx, f, "", raw)
		if errors.Is(err, ErrCredentials) {
			err = errKey
		}
		return id, err
	}
	now := g.o.Now()
	p, ok := g.bearer.get(raw, now)
	if !ok {
		var err error
		if p, err = g.read(ctx, raw); err != nil {
			return nil, err
		}
		if len(raw) <= maxRemembered {
			g.bearer.put(raw, p, now)
		}
	}
	return g.holds(ctx, raw, p, now)
}

// remembered finds a registry token that was verified lately, as nearly all are
// sent: what is the same as one that was well formed need not be looked at again.
func (g *Gate) remembered(header []string, now time.Time) (raw string, p proof, ok bool) {
	if len(header) != 1 || !strings.HasPrefix(header[0], "Bearer eyJ") { // a JSON Web Token
		return "", proof{}, false
	}
	raw = header[0][len("Bearer "):]
	p, ok = g.bearer.get(raw, now)
	return raw, p, ok
}

// holds returns whose a registry token is that was verified, if it still holds.
func (g *Gate) holds(ctx context.Context, raw string, p proof, now time.Time) (*auth.Identity, error) {
	if !now.Before(p.until) {
		g.bearer.drop(raw)
		return nil, errExpired
	}
	if !g.Holds(ctx, p.id) {
		return nil, errToken
	}
	return p.id, nil
}

// read verifies a registry token.
func (g *Gate) read(ctx context.Context, raw string) (p proof, err error) {
	switch {
	case g.o.External != nil:
		p.id, p.until, err = g.o.External.Verify(ctx, raw)
	case g.o.Tokens != nil:
		p.id, p.until, err = g.o.Tokens.Verify(raw)
	default:
		return p, errToken
	}
	switch {
	case errors.Is(err, tokens.ErrExpired):
		return p, errExpired
	case errors.Is(err, tokens.ErrInvalid):
		return p, errToken
	}
	return p, some(p.id, err)
}
