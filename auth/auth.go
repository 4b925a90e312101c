// Package auth says who somebody is and what they may do, and holds a registry to
// it.
//
// Its nouns are Identity, who somebody is and how that is known; Source, which
// knows accounts by name and password; Policy, which decides what an identity may
// do; and Session, one request's caller. Restrict wraps a registry so that every
// method asks the policy first; it fails closed: without a session in the context,
// and for a method that it does not know, nothing is allowed.
//
// The packages below it know one kind of identity each (htpasswd, accounts, ldap,
// oidc, tokens); package gate finds out whose a request is. This package does no
// HTTP and stores nothing.
package auth

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// Identity is who somebody is. It is not changed once it was made.
type Identity struct {
	// Account is the name that policy knows; empty for somebody who has not
	// signed in.
	Account string
	// Groups are those that the source says the account is in.
	Groups []string
	// Claims are what the token of an identity provider says, flattened to text;
	// policy can ask for them. Nil for others.
	Claims map[string]string
	// Source is the name of the Source that vouches for it.
	Source string
	// Key is the id of the API key that it signed in with; empty if by another
	// way.
	Key string
	// Epoch changes when what the identity proved itself by does, a password for
	// example: its source finds it stale then (Source.Current).
	Epoch string
	// Grants, if not nil, limit what it may do to less than policy allows: those
	// of an API key, or of a registry token.
	Grants []Grant
	// Bounds, if not nil, are the Grants of the API key that a registry token was
	// got with. They are what counts for lists of repositories, which a scope does
	// not name.
	Bounds []Grant
	// Scoped says that Grants are those of a registry token, of which the client
	// can get another with a wider scope.
	Scoped bool
	// Final says that Grants are all there is to know, and policy is not asked:
	// an external token server has decided.
	Final bool
}

// Anonymous is somebody who has not signed in.
var Anonymous = &Identity{}

// IsAnonymous says that nobody vouches for the identity.
func (id *Identity) IsAnonymous() bool { return id.Account == "" }

// Action is what somebody may do to a repository.
type Action uint8

// The actions. None contains another: who may push need not be able to pull.
const (
	Pull   Action = 1 << iota // read its content, see it in lists
	Push                      // add content, move tags
	Delete                    // remove content and tags
	Admin                     // administer it; on "**", the registry itself
	Fetch                     // have a mirror ask its upstream for what it lacks; see MayFetch
)

// actions is how many there are.
const actions = 5

var actionNames = [actions]string{"pull", "push", "delete", "admin", "fetch"}

// ParseAction reads pull, push, delete, admin or fetch.
func ParseAction(s string) (Action, bool) {
	i := slices.Index(actionNames[:], s)
	if i < 0 {
		return 0, false
	}
	return 1 << i, true
}

// Actions lists the actions of a set, in their order.
func (a Action) Actions() (names []string) {
	for i, name := range actionNames {
		if a&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String joins the names of a set by commas.
func (a Action) String() string { return strings.Join(a.Actions(), ",") }

// Grant allows actions in the repositories that a pattern matches.
type Grant struct {
	Repos   string // pattern, see ValidPattern
	Actions Action // set
}

// Errors of a Source. Another error than these is a failure of the source itself:
// the account may exist or not.
var (
	// ErrUnknown says that the source knows no such account.
	ErrUnknown = errors.New("no such account")
	// ErrWrong says that the account exists and the password is not its own, or
	// that the account is not allowed to sign in.
	ErrWrong = errors.New("wrong password")
)

// Source knows accounts. Its methods may be called concurrently.
type Source interface {
	// Name is the source's name, in Identity.Source, tokens and logs.
	Name() string
	// Login returns who proves to be the account by the password. It fails with
	// ErrUnknown, ErrWrong, or as the source itself fails. How long it takes may
	// tell more than its error does: that is for the caller to hide.
	Login(ctx context.Context, account, password string) (*Identity, error)
	// Current says whether an identity that the source has vouched for still
	// holds: the account is there, its password and its key are the same. It is
	// called on every request and must not wait for anything.
	Current(id *Identity) bool
}

// Refresher is a Source that can look an account up again without its password.
type Refresher interface {
	// Refresh returns the identity as it is now: in other groups, perhaps. It
	// fails with ErrUnknown if there is no such account any more.
	Refresh(ctx context.Context, id *Identity) (*Identity, error)
}

// Session is the caller of one request.
type Session struct {
	// Identity is who it is, Anonymous included; never nil.
	Identity *Identity
	// Challenge returns the value of WWW-Authenticate that tells the client how
	// to get what it lacks: scope, empty for none in particular. It may be nil.
	Challenge func(scope string, insufficient bool) string
}

type sessionKey struct{}

// NewContext returns a context that carries the session.
func NewContext(ctx context.Context, s *Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

// FromContext returns the session of a context, or nil.
func FromContext(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}
