package web

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/berth-registry/berth/auth"
)

const (
	sessionTime = 12 * time.Hour
	signInTime  = 10 * time.Minute // to sign in at a provider and come back
	// maxCookie is the size of the largest value of a cookie that browsers keep
	// (RFC 6265, section 6.1: 4096 bytes with the name), in bytes.
	maxCookie = 3900
)

// purposes of what is sealed: none is taken for another.
const (
	purposeSession = "web-session"
	purposeSignIn  = "web-sign-in:" // and the provider's name
)

// session is what a browser's cookie says: an identity without its claims, which
// only decide at once.
type session struct {
	Account string   `json:"sub"`
	Groups  []string `json:"groups,omitempty"`
	Source  string   `json:"source"`
	Epoch   string   `json:"epoch,omitempty"`
}

// signIn is what a browser keeps while somebody is at a provider.
type signIn struct {
	State    string `json:"state"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`
	Redirect string `json:"redirect"`
}

var errManyGroups = errors.New("the account is in more groups than a cookie holds")

// isSecure says whether browsers come by TLS.
func (p *pages) isSecure(r *http.Request) bool { return strings.HasPrefix(p.Base(r), "https:") }

// cookie returns a cookie for this host alone (RFC 6265bis, section 4.1.3.2, for
// the prefix). An empty value removes it.
func (p *pages) cookie(r *http.Request, name, value string, ttl time.Duration) *http.Cookie {
	c := &http.Cookie{ //nolint:gosec // not Secure where there is no TLS: browsers would drop it
		Name: p.cookieName(r, name), Value: value, Path: "/", MaxAge: int(ttl.Seconds()),
		HttpOnly: true, Secure: p.isSecure(r), SameSite: http.SameSiteLaxMode,
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

func (p *pages) cookieName(r *http.Request, name string) string {
	if p.isSecure(r) {
		return "__Host-berth-" + name
	}
	return "berth-" + name
}

// seal puts a cookie with claims into an answer.
func (p *pages) seal(w http.ResponseWriter, r *http.Request, name, purpose string, claims any, ttl time.Duration) error {
	value, err := p.Sessions.Seal(purpose, claims, ttl)
	if err != nil {
		return err
	}
	if len(value) > maxCookie {
		return errManyGroups
	}
	http.SetCookie(w, p.cookie(r, name, value, ttl))
	return nil
}

// open reads the claims of a cookie.
func (p *pages) open(r *http.Request, name, purpose string, claims any) bool {
	c, err := r.Cookie(p.cookieName(r, name))
	return err == nil && p.Sessions.Open(purpose, c.Value, claims) == nil
}

// forget removes a cookie.
func (p *pages) forget(w http.ResponseWriter, r *http.Request, name string) {
	http.SetCookie(w, p.cookie(r, name, "", 0))
}

// begin starts the session of who has signed in. What session there was before
// has no part in it.
func (p *pages) begin(w http.ResponseWriter, r *http.Request, id *auth.Identity) error {
	s := session{Account: id.Account, Groups: id.Groups, Source: id.Source, Epoch: id.Epoch}
	return p.seal(w, r, "session", purposeSession, s, sessionTime)
}

// who returns who has signed in, or nil.
func (p *pages) who(r *http.Request) *auth.Identity {
	var s session
	if !p.open(r, "session", purposeSession, &s) {
		return nil
	}
	id := &auth.Identity{Account: s.Account, Groups: s.Groups, Source: s.Source, Epoch: s.Epoch}
	if id.IsAnonymous() || !p.Current(r.Context(), id) {
		return nil
	}
	return id
}
