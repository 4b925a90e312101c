package auth

import (
	"context"
	"errors"
	"net/http"

	"github.com/berth-registry/berth/registry"
)

// Denial is a request that was refused.
type Denial struct {
	Repo   string // empty for the list of repositories
	Action Action
	Ref    string // tag or digest, if the request names one
	From   string // repository to mount from, or empty
	// Rule is the number of the rule that decided, from 0; -1 if none matched, or
	// policy was not asked.
	Rule int
	// Anonymous says that the caller has not signed in, and was told how to.
	Anonymous bool
	// Insufficient says that policy allows it but the caller's registry token does
	// not cover it; the caller was told the scope to ask for.
	Insufficient bool
}

// Restrict returns r as the sessions in its methods' contexts may use it.
//
// It is decided by names only, never by what exists. Reading needs Pull; adding
// content and all of an upload session Push; mounting a blob also Pull in the
// repository that it comes from, or everywhere if that is not named; deleting
// Delete. Lists of repositories leave out what the caller may not pull; there, the
// scope of a registry token counts for nothing, as no client could name the
// repositories that it does not know yet; but who has been granted the list by an
// external token server (Identity.Final, and a Grant of Pull with no pattern) has
// all of it.
//
// Who has not signed in, or comes with a registry token whose scope lacks what
// policy allows, gets registry.ErrUnauthorized with the challenge of its session
// as a header; but not if no token could have that scope, for what it was got with
// has no more. Others get registry.ErrDenied, but for reading: there the answer is
// the very one that registry.Local gives for what is not there.
//
// denied, if not nil, is called for each request that is refused, with its
// context; not for what a list leaves out.
func Restrict(r registry.Registry, a Authority, denied func(ctx context.Context, d Denial)) registry.Registry {
	if denied == nil {
		denied = func(context.Context, Denial) {}
	}
	return &restricted{refuseAll: refuseAll{}, inner: r, auth: a, denied: denied}
}

// restricted has every method of a registry from refuseAll, which refuses, until
// it has one of its own.
type restricted struct {
	refuseAll
	inner  registry.Registry
	auth   Authority
	denied func(ctx context.Context, d Denial)
}

// errHidden refuses somebody who must not learn whether there is anything to be
// refused. It never leaves this package.
var errHidden = errors.New("hidden")

// hide returns the error as which err is told: missing, if it is errHidden.
func hide(err, missing error) error {
	if errors.Is(err, errHidden) {
		return missing
	}
	return err
}

// check fails unless the caller may do a to repo. ref is what the request is
// about.
func (r *restricted) check(ctx context.Context, repo string, a Action, ref string) error {
	return r.decide(ctx, Denial{Repo: repo, Action: a, Ref: ref})
}

// decide is check for what would be denied.
func (r *restricted) decide(ctx context.Context, d Denial) error {
	s := FromContext(ctx)
	d.Rule = none.Rule
	if s == nil || s.Identity == nil {
		return r.refuse(ctx, nil, d)
	}
	id, covered := s.Identity, Covers(s.Identity.Grants, d.Repo, d.Action)
	if id.Final {
		if covered && id.Grants != nil {
			return nil
		}
		d.Insufficient = id.Scoped
		return r.refuse(ctx, s, d)
	}
	decision := r.auth.Decide(id, d.Repo, d.Action)
	if decision.Allowed && covered {
		return nil
	}
	d.Rule = decision.Rule
	d.Insufficient = decision.Allowed && widens(id, d.Repo, d.Action)
	return r.refuse(ctx, s, d)
}

// widens says whether there may be a token for id that covers what policy allows.
func widens(id *Identity, repo string, a Action) bool {
	return id.Scoped && Covers(id.Bounds, repo, a)
}

// refuse tells of a refusal and returns its error. The session may be nil.
func (r *restricted) refuse(ctx context.Context, s *Session, d Denial) error {
	d.Anonymous = s != nil && s.Identity.IsAnonymous() && !d.Insufficient
	r.denied(ctx, d)
	switch {
	case s == nil:
		return registry.ErrDenied
	case d.Insufficient:
		return challenge(s, d, registry.ErrUnauthorized.With("the token's scope does not let you %s", deed(d)))
	case d.Anonymous:
		return challenge(s, d, registry.ErrUnauthorized)
	case d.Action == Pull:
		return errHidden
	}
	return registry.ErrDenied.With("you may not %s", deed(d))
}

// deed is what was refused, in words.
func deed(d Denial) string {
	switch {
	case d.Repo == "":
		return "list repositories"
	case d.Action == Push:
		return "push to repository " + d.Repo
	case d.Action == Delete:
		return "delete from repository " + d.Repo
	}
	return d.Action.String() + " repository " + d.Repo
}

// challenged is an error that comes with a challenge.
type challenged struct {
	error
	value string // of WWW-Authenticate
}

func (c *challenged) Unwrap() error { return c.error }

// Header returns the headers of the answer; registry.Server sends them.
func (c *challenged) Header() http.Header {
	h := http.Header{}
	h.Set("WWW-Authenticate", c.value)
	return h
}

func challenge(s *Session, d Denial, err error) error {
	if s.Challenge == nil {
		return err
	}
	wanted := scope(d.Repo, d.Action)
	if d.From != "" && d.From != d.Repo {
		wanted += " " + scope(d.From, Pull)
	}
	return &challenged{err, s.Challenge(wanted, d.Insufficient)}
}

// scope is what a client asks a token server for (distribution's token scope
// documentation). Who pushes also pulls: Docker asks for both together.
func scope(repo string, a Action) string {
	switch {
	case repo == "":
		return "registry:catalog:*"
	case a == Push:
		a |= Pull
	}
	return "repository:" + repo + ":" + a.String()
}
