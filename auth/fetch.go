package auth

import (
	"context"

	"github.com/berth-registry/berth/registry"
)

// MayFetch says whether the session of ctx, which may pull from repo, may also have
// a mirror ask its upstream for what is not there: that spends the mirror's
// credentials and its share of the upstream's limits. Who has signed in may, unless
// a rule says that they may not; who has not may only if a rule says Fetch. Without
// a session nobody may.
func MayFetch(ctx context.Context, a Authority, repo string) error {
	s := FromContext(ctx)
	if s == nil || s.Identity == nil {
		return registry.ErrDenied
	}
	decision := a.Decide(s.Identity, repo, Fetch)
	switch {
	case decision.Allowed, s.Identity.Final:
		return nil
	case s.Identity.IsAnonymous():
		return challenge(s, Denial{Repo: repo, Action: Pull}, registry.ErrUnauthorized.With("repository %s is a mirror: sign in to have it fetch what it does not have yet", repo))
	case decision.Rule >= 0:
		return registry.ErrDenied.With("requested access to the resource is denied: you may not have this mirror fetch what it does not have yet")
	}
	return nil
}
