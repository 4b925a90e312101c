package gate

import (
	"slices"
	"strings"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/tokens"
)

// actions are all that a scope can ask for.
const actions = auth.Pull | auth.Push | auth.Delete | auth.Admin

// granted returns what of the scopes an identity is granted: what was asked for,
// policy allows and the identity's own grants cover. A scope of which nothing is
// granted is left out, as the token specification says ("Requesting a Token"), and
// so it does not tell what there is.
func (g *Gate) granted(id *auth.Identity, scopes []tokens.Scope) []auth.Grant {
	access := []auth.Grant{}
	add := func(name string, set auth.Action) {
		if set == 0 {
			return
		}
		i := slices.IndexFunc(access, func(a auth.Grant) bool { return a.Repos == name })
		if i < 0 {
			access = append(access, auth.Grant{Repos: name, Actions: set})
			return
		}
		access[i].Actions |= set
	}
	for _, s := range scopes {
		switch {
		case s.IsRepository():
			add(s.Name, g.allowed(id, s.Name, s.Set()))
			if other := g.alias(s.Name); other != "" {
				add(other, g.allowed(id, other, s.Set()&auth.Pull))
			}
		case s.IsCatalog() && s.Set() == actions && g.seesAny(id):
			add("", auth.Pull)
		}
	}
	return access
}

func (g *Gate) alias(repo string) string {
	if g.o.Alias == nil {
		return ""
	}
	return g.o.Alias(repo)
}

// allowed returns what of a set an identity may do to a repository.
func (g *Gate) allowed(id *auth.Identity, repo string, set auth.Action) (may auth.Action) {
	for a := auth.Pull; a <= auth.Admin; a <<= 1 {
		if set&a != 0 && auth.Allowed(g.o.Authority, id, repo, a) {
			may |= a
		}
	}
	return may
}

// seesAny says whether there could be a repository that an identity may pull. The
// list of repositories shows only those that it may.
func (g *Gate) seesAny(id *auth.Identity) bool {
	covered := id.Grants == nil || slices.ContainsFunc(id.Grants, func(a auth.Grant) bool { return a.Actions&auth.Pull != 0 })
	return covered && len(g.o.Authority.Prefixes(id, auth.Pull)) > 0
}

// scopeText writes access as a client asks for it.
func scopeText(access []auth.Grant) string {
	var all []string
	for _, a := range access {
		if a.Repos == "" {
			all = append(all, "registry:catalog:*")
			continue
		}
		all = append(all, "repository:"+a.Repos+":"+a.Actions.String())
	}
	return strings.Join(all, " ")
}
