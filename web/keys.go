package web

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
)

// What keys somebody can get here.
const (
	maxKeys     = 100 // of an account
	maxPatterns = 20  // of a key
	maxNote     = 100 // characters
	day         = 24 * time.Hour
)

// lifetimes of a key, in days. None lasts for ever: nobody would know of a key
// that was forgotten.
func lifetimes() []int { return []int{7, 30, 90, 365} }

// keyForm is what the form for a key says.
type keyForm struct {
	Note, Repos        string
	Pull, Push, Delete bool
	Days               int
}

func newKeyForm() keyForm { return keyForm{Repos: "**", Pull: true, Push: true, Days: 90} }

// home shows the first page: how to use the registry or, to who has signed in,
// that and their keys.
func (p *pages) home(w http.ResponseWriter, r *http.Request) {
	id := p.who(r)
	switch {
	case id != nil:
		p.account(w, r, http.StatusOK, id, &view{Form: newKeyForm()})
	case r.URL.Path != "/":
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	default:
		p.show(w, r, http.StatusOK, "home.html", &view{})
	}
}

// account shows the page of an account.
func (p *pages) account(w http.ResponseWriter, r *http.Request, status int, id *auth.Identity, v *view) {
	keys, err := p.keysOf(r, id)
	if err != nil {
		p.broken(w, r, err)
		return
	}
	v.Heading, v.Identity, v.Lifetimes = "Your account", id, lifetimes()
	for _, k := range slices.Backward(keys) {
		v.Keys = append(v.Keys, keyView{k, !k.Expires.IsZero() && !p.Now().Before(k.Expires)})
	}
	p.show(w, r, status, "account.html", v)
}

// keysOf lists the keys of an identity. An account of the same name, of another
// source, is somebody else.
func (p *pages) keysOf(r *http.Request, id *auth.Identity) ([]accounts.Key, error) {
	keys, err := p.Keys.Keys(r.Context(), id.Account)
	return slices.DeleteFunc(keys, func(k accounts.Key) bool {
		return k.Account != id.Account || k.Source != id.Source
	}), err
}

// createKey makes a key, and shows it this once.
func (p *pages) createKey(w http.ResponseWriter, r *http.Request) {
	id := p.who(r)
	if id == nil {
		http.Redirect(w, r, "/login", http.StatusSeeOther)
		return
	}
	if !p.parse(w, r) {
		return
	}
	form := readKeyForm(r)
	k, err := form.key(id, p.Now())
	if err == nil {
		err = p.room(r, id)
	}
	var made accounts.Key
	var text string
	if err == nil {
		made, text, err = p.Keys.CreateKey(acting(r, id), k)
	}
	if problem, ok := problemOf(err); ok {
		p.account(w, r, http.StatusUnprocessableEntity, id, &view{Form: form, Problem: problem})
		return
	}
	if err != nil {
		p.broken(w, r, err)
		return
	}
	p.Audit.Record(acting(r, id), audit.Event{Kind: audit.TokenChange, Outcome: audit.OK, Action: "create", Subject: id.Account + "/" + made.ID})
	p.account(w, r, http.StatusCreated, id, &view{Form: newKeyForm(), NewKey: text, User: loginName(id.Account)})
}

// formError is what is wrong with a form, for who filled it in.
type formError string

func (e formError) Error() string { return string(e) }

// problemOf returns what somebody is told about a key that cannot be.
func problemOf(err error) (string, bool) {
	if e, ok := errors.AsType[formError](err); ok {
		return string(e), true
	}
	if errors.Is(err, accounts.ErrKey) || errors.Is(err, accounts.ErrName) {
		return err.Error(), true
	}
	return "", false
}

// room says whether an account may have another key.
func (p *pages) room(r *http.Request, id *auth.Identity) error {
	keys, err := p.keysOf(r, id)
	if err == nil && len(keys) >= maxKeys {
		err = formError(fmt.Sprintf("You have %d keys, which is as many as there can be. Revoke some first.", len(keys)))
	}
	return err
}

func readKeyForm(r *http.Request) keyForm {
	f := r.PostForm
	days, _ := strconv.Atoi(f.Get("days")) // 0 is none of those offered
	return keyForm{
		Note: strings.TrimSpace(f.Get("note")), Repos: strings.TrimSpace(f.Get("repos")), Days: days,
		Pull: f.Has("pull"), Push: f.Has("push"), Delete: f.Has("delete"),
	}
}

// key is the key that the form asks for.
func (f keyForm) key(id *auth.Identity, now time.Time) (accounts.NewKey, error) {
	var actions auth.Action
	for a, on := range map[auth.Action]bool{auth.Pull: f.Pull, auth.Push: f.Push, auth.Delete: f.Delete} {
		if on {
			actions |= a
		}
	}
	patterns := strings.FieldsFunc(f.Repos, func(c rune) bool { return c == ',' || c == ' ' || c == '\n' || c == '\r' || c == '\t' })
	switch {
	case actions == 0:
		return accounts.NewKey{}, formError("Choose at least one thing that the key may do.")
	case len(patterns) == 0:
		return accounts.NewKey{}, formError("Name the repositories, or ** for all of them.")
	case len(patterns) > maxPatterns:
		return accounts.NewKey{}, formError(fmt.Sprintf("Name %d repositories or patterns at most.", maxPatterns))
	case !slices.Contains(lifetimes(), f.Days):
		return accounts.NewKey{}, formError("Choose for how long the key is valid.")
	case len([]rune(f.Note)) > maxNote:
		return accounts.NewKey{}, formError(fmt.Sprintf("The note has more than %d characters.", maxNote))
	}
	k := accounts.NewKey{
		Account: id.Account, Source: id.Source, Groups: id.Groups,
		Expires: now.Add(time.Duration(f.Days) * day), Note: f.Note,
	}
	for _, pattern := range patterns {
		if !auth.ValidPattern(pattern) {
			return accounts.NewKey{}, formError(fmt.Sprintf("%q is no pattern of repositories. Write team/app, team/* or team/**.", short(pattern)))
		}
		k.Grants = append(k.Grants, auth.Grant{Repos: pattern, Actions: actions})
	}
	return k, nil
}

// revokeKey removes a key of one's own. Of another's it tells nothing.
func (p *pages) revokeKey(w http.ResponseWriter, r *http.Request) {
	who := p.who(r)
	if who == nil {
		http.Redirect(w, r, "/login", http.StatusSeeOther)
		return
	}
	keys, err := p.keysOf(r, who)
	if err != nil {
		p.broken(w, r, err)
		return
	}
	id := r.PathValue("id")
	if slices.ContainsFunc(keys, func(k accounts.Key) bool { return k.ID == id }) {
		_, err = p.Keys.RevokeKey(acting(r, who), id)
		if err != nil && !errors.Is(err, auth.ErrUnknown) { // the same form, sent twice
			p.broken(w, r, err)
			return
		}
		if err == nil {
			p.Audit.Record(acting(r, who), audit.Event{Kind: audit.TokenChange, Outcome: audit.OK, Action: "revoke", Subject: who.Account + "/" + id})
		}
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
