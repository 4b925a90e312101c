package auth

import (
	"strings"

	"github.com/berth-registry/berth/registry"
)

// everything is the pattern that matches every repository, and the registry as a
// whole.
const everything = "**"

// ValidPattern says whether s is a pattern of repositories: components of a
// repository's name, separated by "/", in which "*" stands for any part of a
// component, also an empty one, and the component "**" for any number of whole
// components. A component without "*" must be one that a name can have, so that a
// pattern that can match nothing, in upper case for example, is found to be a
// mistake.
func ValidPattern(s string) bool {
	if s == "" || len(s) > registry.MaxRepository {
		return false
	}
	for c := range strings.SplitSeq(s, "/") {
		if !validComponent(c) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	if s == everything {
		return true
	}
	if !strings.Contains(s, "*") {
		return registry.ValidRepository(s)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		case c == '*' && (i == 0 || s[i-1] != '*'):
		default:
			return false
		}
	}
	return true
}

// Match says whether a pattern matches a repository's name. What is no name of a
// repository ("a/../b", "A") is matched by none.
//
//	team/**      what is below team, at any depth: team/web, team/web/api; not team
//	team/*       what is directly below team
//	**/web       web, team/web, team/a/web
//	team/**/web  team/web, team/a/web, team/a/b/web
//	team*        team, teams
//	**           everything; the only one to match "", the registry as a whole
//
// It takes no longer than the product of the lengths of both.
func Match(pattern, repo string) bool {
	if repo == "" {
		return pattern == everything
	}
	if pattern == repo { // as what a registry token grants is: a valid name is a valid pattern
		return registry.ValidRepository(repo)
	}
	return ValidPattern(pattern) && registry.ValidRepository(repo) && match(pattern, repo)
}

// match is Match for a valid pattern and a valid name. When components do not
// match, the last "**" takes one more: an earlier one need not, for whatever it
// could reach the last one can.
func match(pattern, repo string) bool {
	var retryPattern, retryRepo string
	retry := false
	p, r := pattern, repo
	for {
		pc, pmore, plast := cut(p)
		switch {
		case pc == everything && plast: // one component or more
			return r != ""
		case pc == everything:
			retryPattern, retryRepo, retry = pmore, r, true
			p = pmore
			continue
		case p == "" && r == "":
			return true
		case p != "" && r != "":
			if rc, rmore, _ := cut(r); Glob(pc, rc) {
				p, r = pmore, rmore
				continue
			}
		}
		if !retry || retryRepo == "" {
			return false
		}
		_, retryRepo, _ = cut(retryRepo)
		p, r = retryPattern, retryRepo
	}
}

// cut splits the first component off; last says that there is no other.
func cut(s string) (first, rest string, last bool) {
	first, rest, more := strings.Cut(s, "/")
	return first, rest, !more
}

// Glob says whether a pattern matches all of s, "*" standing for any bytes. When
// bytes do not match, the last "*" takes one more.
func Glob(pattern, s string) bool {
	star, from := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// literals returns what every name starts with, and ends with, that a pattern
// matches.
func literals(pattern string) (prefix, suffix string) {
	prefix, _, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern, pattern
	}
	last := strings.LastIndexByte(pattern, '*')
	suffix = pattern[last+1:]
	if last > 0 && pattern[last-1] == '*' {
		suffix = strings.TrimPrefix(suffix, "/") // "**/web" matches "web"
	}
	return prefix, suffix
}
