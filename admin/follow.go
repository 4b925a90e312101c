package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/rollout"
)

// Rollouts is what says which node runs what of a tag that it follows; a rollout.Store
// is one.
type Rollouts interface {
	Follow(ctx context.Context, ref rollout.Ref, r rollout.Report) (rollout.Answer, error)
	Status(ctx context.Context, ref rollout.Ref) (rollout.Status, error)
	// List lists those of the repositories that may be seen; more says that there are
	// others.
	List(ctx context.Context, may func(repo string) bool) (list []rollout.Summary, more bool, err error)
	Pause(ctx context.Context, ref rollout.Ref, by string) error
	Resume(ctx context.Context, ref rollout.Ref) error
	Undo(ctx context.Context, ref rollout.Ref) error
	// Forget removes a node from all tags that it follows, and counts them.
	Forget(ctx context.Context, node string) (int, error)
}

// ref reads the tag that a request is about, which the caller may use so. Others are told
// what they would be told of a repository that is not there. What a mirror has cached is
// not followed here: its tags are moved elsewhere.
func (c *call) ref(may auth.Action) (rollout.Ref, error) {
	if c.Rollouts == nil {
		return rollout.Ref{}, errNotOffered
	}
	ref, err := rollout.ParseRef(c.params[0])
	if err != nil {
		return ref, ErrRequestInvalid.With("the path: %v", err)
	}
	allowed := c.who.local || c.who.open || auth.Allowed(c.Authority, c.who.id, ref.Repo, may)
	switch {
	case !allowed && c.who.id.IsAnonymous():
		return ref, registry.ErrUnauthorized.With("sign in first, with the password of an account")
	case !allowed && may != auth.Pull && c.mayPull(ref.Repo):
		return ref, registry.ErrDenied.With("only who may %s to %s may do that", may, ref.Repo)
	case !allowed:
		return ref, registry.ErrNameUnknown.With("repository %s is unknown", ref.Repo)
	case c.Cached != nil && c.Cached(ref.Repo):
		return ref, registry.ErrRouteUnknown.With("%s is the cache of a mirror: its tags are not followed here", ref.Repo)
	}
	return ref, nil
}

// follow takes the report of a node that follows a tag, and says what it is to run.
func (c *call) follow() (int, any, error) {
	ref, err := c.ref(auth.Pull)
	if err != nil {
		return 0, nil, err
	}
	var r rollout.Report
	if err := decodeMost(c.w, c.r, &r, rollout.MaxReport); err != nil {
		return 0, nil, err
	}
	if c.r.ProtoMajor == 1 {
		// It reports again after its interval: a connection that is kept until then costs
		// more memory than all the rest of a node.
		c.w.Header().Set("Connection", "close")
	}
	r.By, r.Any = c.who.id.Account, c.who.admin
	answer, err := c.Rollouts.Follow(c.r.Context(), ref, r)
	return http.StatusOK, answer, err
}

// rolloutError is what a client is told of an error of package rollout, or nil.
func rolloutError(err error) error {
	switch {
	case errors.Is(err, rollout.ErrInvalid):
		return ErrRequestInvalid.With("%v", err)
	case errors.Is(err, rollout.ErrTaken), errors.Is(err, rollout.ErrMany):
		return registry.ErrDenied.With("%v", err)
	case errors.Is(err, rollout.ErrUnknown):
		return ErrRolloutUnknown
	case errors.Is(err, rollout.ErrState):
		return ErrRolloutState.With("%v", err)
	}
	return nil
}

// Follow reports what a node that follows a tag runs, and returns what it is to run.
func (c *Client) Follow(ctx context.Context, ref rollout.Ref, r rollout.Report) (a rollout.Answer, err error) {
	err = c.call(ctx, "POST", "follow/"+escaped(ref), r, &a)
	return a, err
}
