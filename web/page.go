package web

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
)

// view is what templates show.
type view struct {
	Title, Style string
	Host         string // of the registry, as docker is told it
	Identity     *auth.Identity
	Providers    []string // names
	Password     bool     // there is a form for passwords
	CanSignIn    bool
	Problem      string // what went wrong

	Account string // that tried to sign in

	Keys      []keyView
	Form      keyForm
	Lifetimes []int  // days
	NewKey    string // text of a key that was made
	User      string // quoted for a shell

	Heading string // of the page, but for the first
	Text    string // of a message
}

// keyView is a key as it is shown.
type keyView struct {
	accounts.Key
	Expired bool
}

// Patterns are the repositories of the key; none for all.
func (k keyView) Patterns() (patterns []string) {
	for _, g := range k.Grants {
		patterns = append(patterns, g.Repos)
	}
	return patterns
}

// Actions are what the key may do in them.
func (k keyView) Actions() string {
	var all auth.Action
	for _, g := range k.Grants {
		all |= g.Actions
	}
	return strings.Join(all.Actions(), ", ")
}

// Date writes a day for people.
func (view) Date(t time.Time) string { return t.UTC().Format("2 January 2006") }

// Stamp writes a time for machines.
func (view) Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// show writes a page.
func (p *pages) show(w http.ResponseWriter, r *http.Request, status int, name string, v *view) {
	v.Title, v.Style, v.Host = p.Title, p.style, p.Base(r)
	if u, err := url.Parse(v.Host); err == nil && u.Host != "" {
		v.Host = u.Host
	}
	for _, provider := range p.Providers {
		v.Providers = append(v.Providers, provider.Name())
	}
	v.Password = p.Password != nil
	v.CanSignIn = v.Password || len(v.Providers) > 0
	var page bytes.Buffer
	if err := p.templates.ExecuteTemplate(&page, name, v); err != nil {
		p.Log.ErrorContext(r.Context(), "page failed", "page", name, "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes()) // nobody is left to be told
}

// signInHeading is that of the page to sign in, which needs no link to itself.
const signInHeading = "Sign in"

// failure is a page that says what went wrong.
type failure struct {
	status        int
	heading, text string
}

var (
	notFound     = failure{http.StatusNotFound, "Not found", "There is no such page."}
	crossSite    = failure{http.StatusForbidden, "Refused", "The form was sent from another site. Open the page here and try again."}
	badForm      = failure{http.StatusBadRequest, "Bad request", "The form cannot be read."}
	internal     = failure{http.StatusInternalServerError, "Something went wrong", "The registry could not do that. Its log says why."}
	strayed      = failure{http.StatusBadRequest, "Sign-in failed", "It took too long, was begun in another tab or browser, or is over already. Please sign in again."}
	notAccepted  = failure{http.StatusForbidden, "Sign-in failed", "The registry does not accept what the identity provider says of you. The registry's log says why."}
	providerDown = failure{http.StatusServiceUnavailable, "Sign-in is not available", "The identity provider cannot be reached at the moment. Try again later."}
	manyGroups   = failure{http.StatusForbidden, "Sign-in failed", "Your account is in more groups than a browser's cookie can hold. Ask the registry's administrator to have the identity provider send fewer."}
)

// refusedBy tells of an error that an identity provider has sent the browser back
// with: text that anybody can write.
func refusedBy(name, code, description string) failure {
	text := fmt.Sprintf("The identity provider %s did not let you in. It says: %s", name, short(code))
	if description != "" {
		text += ": " + short(description)
	}
	return failure{http.StatusForbidden, "Sign-in failed", text}
}

// maxShort is how much of a text from outside is shown, in characters.
const maxShort = 200

// short cuts text from outside, and leaves out what is not to be seen.
func short(s string) string {
	rs := []rune(strings.ToValidUTF8(s, ""))
	if len(rs) > maxShort {
		rs = append(rs[:maxShort], '…')
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, string(rs))
}

func (p *pages) fail(w http.ResponseWriter, r *http.Request, f failure) {
	p.show(w, r, f.status, "message.html", &view{Heading: f.heading, Text: f.text, Identity: p.who(r)})
}

// parse reads a form, or says that it cannot.
func (p *pages) parse(w http.ResponseWriter, r *http.Request) bool {
	if err := r.ParseForm(); err != nil {
		p.fail(w, r, badForm)
		return false
	}
	return true
}

// span writes a time for people, rounded up.
func span(d time.Duration) string {
	n, unit := int64((d+time.Second-1)/time.Second), "second"
	if n > 90 {
		n, unit = (n+59)/60, "minute"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// loginName is the user name for docker login, quoted for a shell where it must
// be. One with a colon cannot be sent (RFC 7617, section 2), but a key needs no
// name.
func loginName(account string) string {
	if strings.ContainsRune(account, ':') {
		return "token"
	}
	plain := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._-@/+", c)
	}
	if !strings.ContainsFunc(account, func(c rune) bool { return !plain(c) }) && !strings.HasPrefix(account, "-") {
		return account
	}
	return "'" + strings.ReplaceAll(account, "'", `'\''`) + "'"
}
