package auth

// Covers says whether grants allow all of a in repo; an empty repo stands for the
// registry as a whole. Nil grants limit nothing.
func Covers(grants []Grant, repo string, a Action) bool {
	if grants == nil {
		return true
	}
	missing := a
	for _, g := range grants {
		if g.Actions&missing != 0 && Match(g.Repos, repo) {
			missing &^= g.Actions
		}
	}
	return a != 0 && missing == 0
}

// Allowed says whether an identity may do a, one action, to repo: policy lets it,
// and its grants cover that; if they are final, they alone count.
func Allowed(auth Authority, id *Identity, repo string, a Action) bool {
	switch {
	case id == nil:
		return false
	case id.Final:
		return id.Grants != nil && Covers(id.Grants, repo, a)
	}
	return auth.Decide(id, repo, a).Allowed && Covers(id.Grants, repo, a)
}

// grantPrefixes returns the beginnings of names outside of which grants do not
// allow a, as Authority.Prefixes does.
func grantPrefixes(grants []Grant, a Action) (prefixes []string) {
	for _, g := range grants {
		if g.Actions&a != 0 && ValidPattern(g.Repos) {
			prefix, _ := literals(g.Repos)
			prefixes = append(prefixes, prefix)
		}
	}
	return compact(prefixes)
}
