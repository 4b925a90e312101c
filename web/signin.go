package web

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
)

// loginForm shows how to sign in.
func (p *pages) loginForm(w http.ResponseWriter, r *http.Request) {
	if p.who(r) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	p.show(w, r, http.StatusOK, "login.html", &view{Heading: signInHeading})
}

// login signs in by a password.
func (p *pages) login(w http.ResponseWriter, r *http.Request) {
	if p.Password == nil {
		p.fail(w, r, notFound)
		return
	}
	if !p.parse(w, r) {
		return
	}
	account := r.PostForm.Get("account")
	id, err := p.Password(r.Context(), client(r), account, r.PostForm.Get("password"))
	if err == nil && !inPerson(id) {
		err = auth.ErrWrong
	}
	v := &view{Heading: signInHeading, Account: account}
	throttled, isThrottled := errors.AsType[later](err)
	switch {
	case err == nil:
		p.enter(w, r, id)
	case isThrottled:
		wait := max(throttled.RetryAfter().Round(time.Second), time.Second)
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
		v.Problem = "Too many attempts to sign in. Try again in " + span(wait) + "."
		p.show(w, r, http.StatusTooManyRequests, "login.html", v)
	case errors.Is(err, auth.ErrWrong), errors.Is(err, auth.ErrUnknown):
		v.Problem = "No such account, or wrong password."
		p.show(w, r, http.StatusForbidden, "login.html", v)
	default:
		p.Log.ErrorContext(r.Context(), "cannot check a password", "error", err)
		v.Problem = "Passwords cannot be checked at the moment. Try again later."
		p.show(w, r, http.StatusServiceUnavailable, "login.html", v)
	}
}

// later is an error that says when to try again.
type later interface {
	error
	RetryAfter() time.Duration
}

// inPerson says whether somebody has signed in as themselves. Who has an API key,
// or the token of a job, is not to get from it a session that lasts longer, or a
// key that may do more.
func inPerson(id *auth.Identity) bool {
	return !id.IsAnonymous() && id.Key == "" && id.Grants == nil && !id.Final && id.Source != "workload"
}

// enter starts the session of who has signed in, and shows the first page.
func (p *pages) enter(w http.ResponseWriter, r *http.Request, id *auth.Identity) {
	if err := p.begin(w, r, id); err != nil {
		p.broken(w, r, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (p *pages) logout(w http.ResponseWriter, r *http.Request) {
	p.forget(w, r, "session")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// leave sends the browser to an identity provider.
func (p *pages) leave(w http.ResponseWriter, r *http.Request) {
	provider := p.providers[r.PathValue("name")]
	if provider == nil {
		p.fail(w, r, notFound)
		return
	}
	name := provider.Name()
	s := signIn{
		State: rand.Text(), Nonce: rand.Text(),
		Verifier: rand.Text() + rand.Text(), // 43 to 128 characters: RFC 7636, section 4.1
		Redirect: p.Base(r) + "/oidc/" + name + "/callback",
	}
	to, err := provider.AuthURL(r.Context(), s.Redirect, s.State, s.Nonce, s.Verifier)
	if err != nil {
		p.Log.ErrorContext(r.Context(), "cannot send a browser to an identity provider", "provider", name, "error", err)
		p.fail(w, r, providerDown)
		return
	}
	if err := p.seal(w, r, "sign-in-"+name, purposeSignIn+name, s, signInTime); err != nil {
		p.broken(w, r, err)
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// comeBack takes the answer of an identity provider (RFC 6749, section 4.1.2). It
// is taken only from the browser that was sent there, and only once: that keeps
// others from having somebody sign in as them, or with a code that they found.
func (p *pages) comeBack(w http.ResponseWriter, r *http.Request) {
	provider := p.providers[r.PathValue("name")]
	if provider == nil {
		p.fail(w, r, notFound)
		return
	}
	name, q := provider.Name(), r.URL.Query()
	var s signIn
	ok := p.open(r, "sign-in-"+name, purposeSignIn+name, &s)
	p.forget(w, r, "sign-in-"+name)
	if !ok || s.State == "" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(s.State)) == 0 {
		p.fail(w, r, strayed)
		return
	}
	if e := q.Get("error"); e != "" {
		p.denied(r, provider, "the provider says "+short(e))
		p.fail(w, r, refusedBy(name, e, q.Get("error_description")))
		return
	}
	id, err := provider.Exchange(r.Context(), s.Redirect, q.Get("code"), s.Nonce, s.Verifier)
	if err == nil && (!inPerson(id) || !p.Current(r.Context(), id)) {
		err = auth.ErrWrong
	}
	switch {
	case err == nil:
		p.Audit.Record(acting(r, id), audit.Event{Kind: audit.Login, Outcome: audit.OK})
		p.enter(w, r, id)
	case errors.Is(err, auth.ErrWrong):
		p.denied(r, provider, err.Error())
		p.Log.WarnContext(r.Context(), "sign-in refused", "provider", name, "error", err)
		p.fail(w, r, notAccepted)
	default:
		p.Log.ErrorContext(r.Context(), "identity provider failed", "provider", name, "error", err)
		p.fail(w, r, providerDown)
	}
}

// denied records that nobody could sign in by a provider.
func (p *pages) denied(r *http.Request, provider Provider, reason string) {
	p.Audit.Record(acting(r, auth.Anonymous), audit.Event{
		Kind: audit.Login, Outcome: audit.Denied, Reason: provider.Name() + ": " + reason,
	})
}

// acting returns the context of a request with who acts: who has signed in, from
// where what stands before the pages has found out.
func acting(r *http.Request, id *auth.Identity) context.Context {
	a := audit.Actor{Client: client(r), Request: r.Header.Get("X-Request-Id")}
	if known := audit.FromContext(r.Context()); known != nil {
		a = *known
	}
	a.Account, a.Source, a.Key = id.Account, id.Source, id.Key
	return audit.NewContext(r.Context(), &a)
}

// client is the address that a request comes from.
func client(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// broken says that the registry itself has failed.
func (p *pages) broken(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, errManyGroups) {
		p.fail(w, r, manyGroups)
		return
	}
	p.Log.LogAttrs(r.Context(), slog.LevelError, "page failed", slog.String("path", r.URL.Path), slog.Any("error", err))
	p.fail(w, r, internal)
}
