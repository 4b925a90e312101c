package auth

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// subject is somebody that a rule names.
type subject struct {
	kind subjectKind
	name string // of the account, group or claim
	text string // of the claim: its value, or the pattern of its value
}

type subjectKind uint8

const (
	everyone subjectKind = iota
	anonymous
	authenticated
	user
	group
	claim      // with a value
	claimMatch // with a value that matches a pattern
)

// subjectForms is how to write a subject, for errors.
const subjectForms = "everyone, anonymous, authenticated, user:NAME, group:NAME, claim:NAME=PATTERN"

// words are subjects that are known by a word alone.
var words = []string{everyone: "everyone", anonymous: "anonymous", authenticated: "authenticated"}

// parseSubject reads a subject as Rule.Who has it.
func parseSubject(s string) (subject, error) {
	for kind, word := range words {
		switch {
		case s == word:
			return subject{kind: subjectKind(kind)}, nil
		case strings.EqualFold(s, word):
			return subject{}, fmt.Errorf("who %q: want %q, or %q for an account of that name", s, word, "user:"+s)
		}
	}
	kind, name, ok := strings.Cut(s, ":")
	if !ok {
		kind, name = "user", s
	}
	switch kind {
	case "user":
		return named(user, s, name)
	case "group":
		return named(group, s, name)
	case "claim":
		return parseClaim(s, name)
	}
	return subject{}, fmt.Errorf("who %q: want one of %s", clip(s), subjectForms)
}

// named is an account or a group. A "*" in its name is taken for the mistake that
// it most likely is.
func named(kind subjectKind, s, name string) (subject, error) {
	if !plain(name) || strings.Contains(name, "*") {
		return subject{}, fmt.Errorf("who %q: want a name, without spaces around it or \"*\"; everybody who has signed in is authenticated", clip(s))
	}
	return subject{kind: kind, name: name}, nil
}

func parseClaim(s, condition string) (subject, error) {
	name, text, ok := strings.Cut(condition, "=")
	if !ok || !plain(name) || !plain(text) {
		return subject{}, fmt.Errorf("who %q: want claim:NAME=PATTERN, such as claim:repository=team/*", clip(s))
	}
	if strings.Contains(text, "*") {
		return subject{claimMatch, name, text}, nil
	}
	return subject{claim, name, text}, nil
}

// plain says whether s can be a name: text of a sensible length, and no spaces
// around it.
func plain(s string) bool {
	const most = 1024
	return s != "" && len(s) <= most && utf8.ValidString(s) && s == strings.TrimSpace(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// is says whether an identity is the subject.
func (s *subject) is(id *Identity) bool {
	if id.IsAnonymous() {
		return s.kind == everyone || s.kind == anonymous
	}
	switch s.kind {
	case everyone, authenticated:
		return true
	case anonymous:
		return false
	case user:
		return id.Account == s.name
	case group:
		return slices.Contains(id.Groups, s.name)
	case claim:
		v, ok := id.Claims[s.name]
		return ok && v == s.text
	case claimMatch:
		v, ok := id.Claims[s.name]
		return ok && Glob(s.text, v)
	}
	return false
}

// subjects lists what an identity is, without claimMatch, of which there is no
// end.
func (id *Identity) subjects() iter.Seq[subject] {
	return func(yield func(subject) bool) {
		if !yield(subject{kind: everyone}) {
			return
		}
		if id.IsAnonymous() {
			yield(subject{kind: anonymous})
			return
		}
		if !yield(subject{kind: authenticated}) || !yield(subject{kind: user, name: id.Account}) {
			return
		}
		for _, g := range id.Groups {
			if !yield(subject{kind: group, name: g}) {
				return
			}
		}
		for name, v := range id.Claims {
			if !yield(subject{claim, name, v}) {
				return
			}
		}
	}
}

// clip shortens what somebody wrote to what is worth repeating.
func clip(s string) string {
	const most = 160
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
