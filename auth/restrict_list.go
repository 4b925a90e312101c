package auth

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/berth-registry/berth/registry"
)

// sight is what a caller sees of the list of repositories.
type sight struct {
	auth     Authority
	id       *Identity
	prefixes []string // of the names that there may be to see, as Authority.Prefixes
}

// sight fails for a caller who has to sign in to see anything at all.
func (r *restricted) sight(ctx context.Context) (*sight, error) {
	s := FromContext(ctx)
	d := Denial{Action: Pull, Rule: none.Rule}
	if s == nil || s.Identity == nil {
		return nil, r.refuse(ctx, nil, d)
	}
	id := s.Identity
	see := &sight{auth: r.auth, id: id}
	switch {
	case id.Final && catalog(id.Grants):
		see.prefixes = []string{""}
	case id.Final:
		see.prefixes = grantPrefixes(id.Grants, Pull)
	default:
		see.prefixes = r.auth.Prefixes(id, Pull)
		if limits := listed(id); limits != nil {
			see.prefixes = intersect(see.prefixes, grantPrefixes(limits, Pull))
		}
	}
	d.Insufficient = id.Final && id.Scoped
	if len(see.prefixes) == 0 && (id.IsAnonymous() || d.Insufficient) {
		return nil, r.refuse(ctx, s, d)
	}
	return see, nil
}

// catalog says whether grants are for the list of repositories as a whole: that
// names no repository, and is no pattern of any.
func catalog(grants []Grant) bool {
	return slices.ContainsFunc(grants, func(g Grant) bool { return g.Repos == "" && g.Actions&Pull != 0 })
}

// sees says whether a repository is to be seen.
func (s *sight) sees(repo string) bool {
	if s.id.Final {
		return catalog(s.id.Grants) || Allowed(s.auth, s.id, repo, Pull)
	}
	return Covers(listed(s.id), repo, Pull) && s.auth.Decide(s.id, repo, Pull).Allowed
}

// listed is what limits the lists that an identity sees: not the scope of its
// token, but the grants of the API key that it was got with.
func listed(id *Identity) []Grant {
	if id.Scoped {
		return id.Bounds
	}
	return id.Grants
}

// from returns the prefixes of names that come after a name.
func (s *sight) from(name string) []string {
	i, found := slices.BinarySearch(s.prefixes, name)
	if !found && i > 0 && strings.HasPrefix(name, s.prefixes[i-1]) {
		i--
	}
	return s.prefixes[i:]
}

// before returns a text that comes after every name that comes before those with a
// prefix, and before these. No name has a "~", which comes after whatever names
// have.
func before(prefix string) string {
	if prefix == "" {
		return ""
	}
	last := len(prefix) - 1
	return prefix[:last] + string(rune(prefix[last]-1)) + "~"
}

// Repositories implements registry.Lister. What lies between the prefixes that the
// caller may pull from is skipped, not read; so the list is a snapshot only within
// each of them.
func (r *restricted) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		see, err := r.sight(ctx)
		if err != nil {
			yield("", err)
			return
		}
		for more := true; more; {
			left := see.from(after)
			if len(left) == 0 {
				return
			}
			after, more = see.scan(r.inner.Repositories(ctx, max(after, before(left[0]))), yield)
		}
	}
}

// scan yields of a list of repositories those that are to be seen. If too much of
// it is not, the list is left at last, and more is true.
func (s *sight) scan(names iter.Seq2[string, error], yield func(string, error) bool) (last string, more bool) {
	const patience = 8 // names read are no dearer than a new list
	outside := 0
	for name, err := range names {
		if err != nil {
			yield("", err)
			return "", false
		}
		switch {
		case !hasPrefix(s.prefixes, name):
			if outside++; outside == patience {
				return name, true
			}
		case s.sees(name):
			outside = 0
			if !yield(name, nil) {
				return "", false
			}
		}
	}
	return "", false
}

// Search implements registry.Lister.
func (r *restricted) Search(ctx context.Context, term string) iter.Seq2[registry.SearchResult, error] {
	return func(yield func(registry.SearchResult, error) bool) {
		see, err := r.sight(ctx)
		if err != nil {
			yield(registry.SearchResult{}, err)
			return
		}
		if len(see.prefixes) == 0 {
			return
		}
		for result, err := range r.inner.Search(ctx, term) {
			if err == nil && !see.sees(result.Name) {
				continue
			}
			if !yield(result, err) {
				return
			}
		}
	}
}
