package gate

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// maxForm is the greatest length of a form in bytes.
const maxForm = 64 << 10

// The grants (RFC 6749, sections 4.3 and 6; RFC 8693, section 2.1) and the types
// of tokens (RFC 8693, section 3).
const (
	grantPassword = "password"
	grantRefresh  = "refresh_token"
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"

	typeAccess = "urn:ietf:params:oauth:token-type:access_token"
	typeID     = "urn:ietf:params:oauth:token-type:id_token"
	typeJWT    = "urn:ietf:params:oauth:token-type:jwt"
)

// oauthError is an error of RFC 6749, section 5.2, or of RFC 8693, section 2.2.2.
type oauthError struct {
	code string
	text string
}

func (e *oauthError) Error() string { return e.text }

var (
	errRefresh    = &oauthError{"invalid_grant", "the refresh token is not valid, or no longer"}
	errSubject    = &oauthError{"invalid_grant", "the subject token is not accepted"}
	errGrantType  = &oauthError{"unsupported_grant_type", "grant_type is none that this endpoint knows"}
	errForm       = &oauthError{"invalid_request", "the body is not a form of at most 64 KiB"}
	errService    = &oauthError{"invalid_target", "this is not the token endpoint of that service"}
	errOnce       = &oauthError{"invalid_request", "a parameter is missing, or there twice"}
	errTokenTypes = &oauthError{"invalid_request", "unknown type of token"}
)

// tokenPost is the OAuth 2.0 form, which clients with a refresh token use.
func (g *Gate) tokenPost(w http.ResponseWriter, r *http.Request, f from) {
	a, err := g.post(w, r, f)
	if err == nil {
		g.observe(r, f, "token", http.StatusOK, writeJSON(w, r, http.StatusOK, a), nil)
		return
	}
	out, code := explainOAuth(err)
	g.refuseToken(w, r, f, out, err, map[string]any{
		"error": code, "error_description": out.text,
		"errors": out.errors(), // Docker looks here
	})
}

// explainOAuth says what the client is told of an error. invalid_grant comes with
// 401, not the 400 of RFC 6749, section 5.2: that is what container clients take
// for wrong credentials, and others look at the code.
func explainOAuth(err error) (refusal, string) {
	var oauth *oauthError
	if !errors.As(err, &oauth) {
		out := explain(err)
		switch {
		case errors.Is(err, ErrCredentials):
			return out, "invalid_grant"
		case errors.Is(err, registry.ErrNameInvalid):
			return out, "invalid_scope"
		case out.kind.Status >= http.StatusInternalServerError, out.kind == registry.ErrTooMany:
			return out, "temporarily_unavailable" // of section 4.1.2.1: 5.2 has none
		}
		return out, "invalid_request"
	}
	kind := errBadRequest
	if oauth.code == "invalid_grant" {
		kind = registry.ErrUnauthorized
	}
	return refusal{kind: kind, text: oauth.text}, oauth.code
}

func (g *Gate) post(w http.ResponseWriter, r *http.Request, f from) (*answer, error) {
	form, err := readForm(w, r)
	if err != nil {
		return nil, err
	}
	for name, values := range form {
		if len(values) > 1 && name != "scope" { // RFC 6749, section 3.2
			return nil, errOnce
		}
	}
	for _, name := range []string{"service", "audience", "resource"} { // RFC 8693, section 2.1
		if s := form.Get(name); s != "" && s != g.o.Service {
			return nil, errService
		}
	}
	var id *auth.Identity
	err = errStale
	if !g.stale() {
		id, err = g.grant(r.Context(), f, form)
	}
	err = g.metered(id, f, err)
	if err != nil {
		return nil, err
	}
	a, err := g.issue(r.Context(), f, id, form["scope"], form.Get("access_type") == "offline" && form.Get("grant_type") == grantPassword)
	if err == nil && form.Get("grant_type") == grantExchange {
		a.IssuedTokenType = typeAccess
	}
	return a, err
}

// grant returns who it is by the grant of a form.
func (g *Gate) grant(ctx context.Context, f from, form url.Values) (*auth.Identity, error) {
	switch form.Get("grant_type") {
	case grantPassword:
		if !form.Has("username") || !form.Has("password") {
			return nil, errOnce
		}
		return g.login(ctx, f, form.Get("username"), form.Get("password"))
	case grantRefresh:
		id, err := g.renew(ctx, form.Get("refresh_token"))
		return id, g.told(ctx, f, id, err)
	case grantExchange:
		if g.o.Workload == nil {
			return nil, errGrantType
		}
		id, err := g.exchange(ctx, form)
		return id, g.told(ctx, f, id, err)
	}
	return nil, errGrantType
}

// exchange returns whose the ID token of a workload is (RFC 8693).
func (g *Gate) exchange(ctx context.Context, form url.Values) (*auth.Identity, error) {
	switch typ := form.Get("subject_token_type"); {
	case form.Get("subject_token") == "" || form.Has("actor_token"):
		return nil, errOnce
	case typ != typeID && typ != typeJWT:
		return nil, errTokenTypes
	case form.Get("requested_token_type") != "" && form.Get("requested_token_type") != typeAccess:
		return nil, errTokenTypes
	}
	id, until, err := g.o.Workload.Login(ctx, form.Get("subject_token"))
	switch {
	case errors.Is(err, auth.ErrUnknown), errors.Is(err, auth.ErrWrong):
		return nil, errSubject
	case some(id, err) != nil:
		return nil, some(id, err)
	case !g.o.Now().Before(until), !g.Current(id):
		return nil, errSubject
	}
	return id, nil
}

// told tells the audit how a login without a password ended, and returns err.
func (g *Gate) told(ctx context.Context, f from, id *auth.Identity, err error) error {
	e := audit.Event{Kind: audit.Login, Outcome: audit.OK}
	var oauth *oauthError
	switch {
	case errors.As(err, &oauth):
		e.Outcome, e.Reason = audit.Denied, oauth.text
	case err != nil:
		e.Outcome, e.Reason = audit.Failed, "the source of the account failed"
	}
	if id == nil {
		id = auth.Anonymous
	}
	g.record(ctx, f, id, e)
	return err
}

// formTime is how long a client may take to send a form.
const formTime = 30 * time.Second

// readForm reads the form in the body, and nothing of the URL: what is in there
// gets into logs.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	typ, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || typ != "application/x-www-form-urlencoded" || r.ContentLength > maxForm {
		return nil, errForm
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(formTime)) // a recorder in a test has none
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return nil, errForm
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	form, err := url.ParseQuery(string(data))
	if err != nil {
		return nil, errForm
	}
	return form, nil
}
