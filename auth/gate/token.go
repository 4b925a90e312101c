package gate

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/registry"
)

// TokenHandler is the token endpoint (distribution token specification): GET with
// a password, an API key, a client certificate or nothing; POST as RFC 6749 has
// it, with a password or a refresh token, and with the ID token of a workload (RFC
// 8693). Without tokens of our own there is none.
//
// A registry token lives as long as tokens.Options say, also if the certificate or
// the ID token that it was got with expires earlier. Those who came with one of
// these get no refresh token: it would outlive what proved who they are.
func (g *Gate) TokenHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := g.arrived(w, r)
		h := w.Header()
		h.Set("Cache-Control", "no-store") // RFC 6749, section 5.1
		h.Set("Pragma", "no-cache")
		switch {
		case g.o.Open || g.o.External != nil || g.o.Tokens == nil:
			g.refuse(w, r, f, "token", registry.ErrRouteUnknown.With("this registry has no token endpoint"))
		case r.Method == http.MethodGet:
			g.tokenGet(w, r, f)
		case r.Method == http.MethodPost:
			g.tokenPost(w, r, f)
		default:
			h.Set("Allow", "GET, POST")
			g.refuse(w, r, f, "token", registry.ErrMethod)
		}
	})
}

// answer is the token endpoint's (token specification, "Token Response Fields";
// RFC 6749, section 5.1; RFC 8693, section 2.2.1).
type answer struct {
	Token           string `json:"token,omitempty"`
	AccessToken     string `json:"access_token"`
	TokenType       string `json:"token_type"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	Scope           string `json:"scope"`
	ExpiresIn       int64  `json:"expires_in"` // seconds
	IssuedAt        string `json:"issued_at"`
	RefreshToken    string `json:"refresh_token,omitempty"`
}

// tokenGet is the form that every client knows. Docker signs in with it, and
// takes a 401 for a wrong password.
func (g *Gate) tokenGet(w http.ResponseWriter, r *http.Request, f from) {
	a, err := g.get(r, f)
	if err == nil {
		g.observe(r, f, "token", http.StatusOK, writeJSON(w, r, http.StatusOK, a), nil)
		return
	}
	out := explain(err)
	g.refuseToken(w, r, f, out, err, map[string]any{"errors": out.errors()})
}

// refuseToken answers 401 with a challenge for Basic, which is how one signs in
// here.
func (g *Gate) refuseToken(w http.ResponseWriter, r *http.Request, f from, out refusal, err error, body any) {
	g.note(r.Context(), f, out, err)
	if out.kind.Status == http.StatusUnauthorized {
		w.Header()["Www-Authenticate"] = []string{g.basicChallenge()}
	}
	g.observe(r, f, "token", out.kind.Status, out.write(w, r, body), &out)
}

func (g *Gate) get(r *http.Request, f from) (*answer, error) {
	if len(r.URL.RawQuery) > maxForm {
		return nil, errBadRequest.With("the query is too long")
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errBadRequest.With("malformed query in the URL")
	}
	if s := q["service"]; len(s) > 1 || len(s) == 1 && s[0] != "" && s[0] != g.o.Service {
		return nil, errBadRequest.With("this is not the token endpoint of that service")
	}
	id, err := g.whose(r, f)
	if err == nil && (id.Scoped || id.Final) { // a token that renews itself would never end
		err = errToken
	}
	err = g.metered(id, f, err)
	if err != nil {
		return nil, err
	}
	a, err := g.issue(r.Context(), f, id, q["scope"], q.Get("offline_token") == "true")
	if err != nil {
		return nil, err
	}
	a.Token = a.AccessToken // older clients know this name only
	return a, nil
}

// metered counts a request of an account or, if err says that there is none, of a
// client. It returns err, unless there were too many.
func (g *Gate) metered(id *auth.Identity, f from, err error) error {
	if err != nil {
		id = nil
	}
	if m := g.meters.of(id, f.client); m != nil {
		if after := m.request(); after > 0 {
			return &ThrottledError{After: after}
		}
	}
	return err
}

// issue makes the answer that has what an identity is granted of the scopes.
func (g *Gate) issue(ctx context.Context, f from, id *auth.Identity, scopes []string, offline bool) (*answer, error) {
	asked, err := tokens.ParseScopes(scopes)
	if err != nil {
		return nil, err
	}
	access := g.granted(id, asked)
	t, err := g.o.Tokens.Issue(id, access)
	if err != nil {
		return nil, err
	}
	a := &answer{
		AccessToken: t.Text, TokenType: "Bearer", Scope: scopeText(access),
		ExpiresIn: int64(t.Expires.Sub(t.Issued) / time.Second), IssuedAt: t.Issued.UTC().Format(time.RFC3339),
	}
	if offline && g.Lasts(id) {
		if a.RefreshToken, err = g.o.Tokens.IssueRefresh(ctx, id); err != nil {
			return nil, err
		}
		g.record(ctx, f, id, audit.Event{Kind: audit.TokenChange, Outcome: audit.OK, Subject: id.Account, Reason: "refresh token issued"})
	}
	return a, nil
}

// Lasts says whether an identity is vouched for beyond what it came with, so that it
// may have refresh tokens and API keys: by a source or its API key, but not by a
// certificate or a job's token, which end.
func (g *Gate) Lasts(id *auth.Identity) bool {
	return !id.IsAnonymous() && g.sources[id.Source] != nil
}

// renew returns whose a refresh token is, as its source knows it now.
func (g *Gate) renew(ctx context.Context, raw string) (*auth.Identity, error) {
	id, err := g.o.Tokens.Refresh(ctx, raw)
	switch {
	case errors.Is(err, tokens.ErrInvalid), errors.Is(err, tokens.ErrExpired):
		return nil, errRefresh
	case err != nil:
		return nil, err
	case !g.Lasts(id) || !g.Holds(ctx, id):
		return nil, errRefresh
	}
	now, err := g.afresh(ctx, id)
	switch {
	case errors.Is(err, auth.ErrUnknown), errors.Is(err, auth.ErrWrong):
		return nil, errRefresh
	case err != nil:
		return nil, err
	case !g.Holds(ctx, now):
		return nil, errRefresh
	}
	return now, nil
}

// afresh returns who somebody is as their source knows them now: in other groups,
// perhaps. It fails as auth.Refresher does; of a source that is none, all is as it
// was.
func (g *Gate) afresh(ctx context.Context, id *auth.Identity) (*auth.Identity, error) {
	s := g.sources[id.Source]
	if s == nil {
		return id, nil
	}
	r, ok := s.Source.(auth.Refresher)
	if !ok {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	fresh, err := r.Refresh(ctx, id)
	if err := some(fresh, err); err != nil {
		return nil, err
	}
	now := *fresh
	now.Account, now.Source, now.Key = id.Account, id.Source, id.Key
	if id.Grants != nil { // what it signed in by limits it for ever
		now.Grants = id.Grants
	}
	return &now, nil
}
