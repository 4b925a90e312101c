package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// ErrThrottled says that there were too many requests or failed logins. What
// Login returns is a *ThrottledError that wraps it.
var ErrThrottled = errors.New("too many requests; try again later")

// ThrottledError is ErrThrottled with when to try again.
type ThrottledError struct{ After time.Duration }

func (*ThrottledError) Error() string { return ErrThrottled.Error() }
func (*ThrottledError) Unwrap() error { return ErrThrottled }

// RetryAfter is when to try again; the pages ask for it.
func (e *ThrottledError) RetryAfter() time.Duration { return e.After }

// ErrCredentials says that there is no such account, or that the password is not
// its own. It does not say which, and wraps auth.ErrWrong in both cases.
var ErrCredentials error = credentialsError{}

type credentialsError struct{}

func (credentialsError) Error() string { return "no such account, or wrong password" }
func (credentialsError) Unwrap() error { return auth.ErrWrong }

var (
	errNone        = errors.New("authentication required")
	errNoneListed  = fmt.Errorf("%w to list repositories", errNone)
	errToken       = errors.New("the token is not valid, or no longer")
	errKey         = errors.New("the API key is not valid, or no longer")
	errExpired     = errors.New("the token has expired")
	errStale       = errors.New("what others have changed of accounts has not been seen for too long")
	errCertificate = errors.New("the client certificate has expired")
)

// errBadRequest is a request that cannot be understood. The specification has no
// code for it.
var errBadRequest = &registry.Error{Code: "UNSUPPORTED", Status: http.StatusBadRequest, Message: "bad request"}

// refusal is what a client is told.
type refusal struct {
	kind    *registry.Error
	text    string
	failure string        // of the challenge, if the answer has one
	after   time.Duration // Retry-After
}

// explain says what the client is told of an error. What it cannot place is a
// failure of a source or a store, of which the client learns nothing.
func explain(err error) refusal {
	var throttled *ThrottledError
	var kind *registry.Error
	switch {
	case errors.As(err, &throttled):
		return refusal{kind: registry.ErrTooMany, text: registry.ErrTooMany.Message, after: throttled.After}
	case errors.Is(err, errToken), errors.Is(err, errExpired), errors.Is(err, errKey):
		return refusal{kind: registry.ErrUnauthorized, text: err.Error(), failure: invalidToken}
	case errors.Is(err, errSeveral), errors.Is(err, errHuge):
		return refusal{kind: errBadRequest, text: err.Error()}
	case errors.Is(err, ErrCredentials), errors.Is(err, errNone), errors.Is(err, errCertificate), unreadable(err):
		return refusal{kind: registry.ErrUnauthorized, text: err.Error()}
	case errors.As(err, &kind):
		return refusal{kind: kind, text: err.Error()}
	}
	return refusal{
		kind: registry.ErrUnavailable, after: 5 * time.Second,
		text: "who you are cannot be found out at the moment; try again",
	}
}

// unreadable says that err is of an Authorization header.
func unreadable(err error) bool {
	for _, e := range []error{errSeveral, errHuge, errScheme, errMalformed, errControl, errNotUnicode} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// refuse answers in the registry's form (specification, "Error Codes").
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, f from, route string, err error) {
	out := explain(err)
	g.note(r.Context(), f, out, err)
	if out.kind.Status == http.StatusUnauthorized {
		scope := ""
		if errors.Is(err, errNoneListed) {
			scope = "registry:catalog:*"
		}
		w.Header()["Www-Authenticate"] = []string{g.challenge(r, scope, out.failure)}
	}
	n := out.write(w, r, map[string]any{"errors": out.errors()})
	g.observe(r, f, route, out.kind.Status, n, &out)
}

// observe tells of a request that went no further.
func (g *Gate) observe(r *http.Request, f from, route string, status int, n int64, out *refusal) {
	if g.o.Observe == nil {
		return
	}
	rec := registry.Record{
		ID: f.request, Client: f.client, Method: r.Method, Path: r.URL.Path, Route: route,
		Status: status, Out: n, Duration: g.o.Now().Sub(f.start),
	}
	if out != nil {
		rec.Err = out.kind.With("%s", out.text)
	}
	g.o.Observe(r.Context(), rec)
}

// note tells the log of a failure, and the audit of a header or a token that was
// refused; those who check passwords have told of theirs.
func (g *Gate) note(ctx context.Context, f from, out refusal, err error) {
	switch {
	case out.kind.Status >= http.StatusInternalServerError && ctx.Err() == nil:
		g.o.Log.LogAttrs(ctx, slog.LevelError, "cannot find out who a client is",
			slog.String("request", f.request), slog.String("client", f.client), slog.Any("error", err))
	case errors.Is(err, errKey): // its login was told of
	case out.failure != "", unreadable(err), errors.Is(err, errCertificate):
		g.record(ctx, f, auth.Anonymous, audit.Event{Kind: audit.Access, Outcome: audit.Denied, Reason: err.Error()})
	}
}

func (out *refusal) errors() any {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	return []entry{{out.kind.Code, out.text}}
}

func (out *refusal) write(w http.ResponseWriter, r *http.Request, body any) int64 {
	if out.after > 0 {
		w.Header().Set("Retry-After", retryAfter(out.after))
	}
	return writeJSON(w, r, out.kind.Status, body)
}

// retryAfter is in seconds (RFC 9110, section 10.2.3), at least one.
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(int64(max(d+time.Second-1, time.Second)/time.Second), 10)
}

// writeJSON returns how many bytes of the body it has written.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, body any) int64 {
	data, err := json.Marshal(body)
	if err != nil { // a body of strings and numbers can always be encoded
		status, data = http.StatusInternalServerError, []byte(`{}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return 0
	}
	n, _ := w.Write(data) // nobody is left to be told
	return int64(n)
}
