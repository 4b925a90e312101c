package oidc

import (
	"fmt"
	"strings"
)

// template is the name of an account with places for claims: text and names of
// claims take turns, text first.
type template []string

// parseTemplate reads text with {NAME} in it.
func parseTemplate(s string) (template, error) {
	fail := func(why string) (template, error) { return nil, fmt.Errorf("account %q: %s", s, why) }
	var t template
	rest := s
	for {
		text, after, open := strings.Cut(rest, "{")
		if strings.ContainsFunc(text, func(c rune) bool { return !inWorkload(c) }) {
			return fail("only letters, digits, ._-@/: and {claims}")
		}
		t = append(t, text)
		if !open {
			break
		}
		name, more, closed := strings.Cut(after, "}")
		if !closed || name == "" || strings.ContainsAny(name, "{ ") {
			return fail("{ without a claim's name and }")
		}
		t, rest = append(t, name), more
	}
	if i := strings.IndexByte(t[0], '/'); i <= 0 {
		return fail("a slash before the first claim is missing, as in ci/{repository}")
	}
	return t, nil
}

// fill puts claims into their places.
func (t template) fill(c claims) (string, error) {
	var b strings.Builder
	for i, part := range t {
		if i%2 == 0 {
			b.WriteString(part)
			continue
		}
		v, _ := c.lookup(part)
		value, ok := text(v)
		if !ok || value == "" {
			return "", fmt.Errorf("it has no claim %s", part)
		}
		if strings.ContainsFunc(value, func(c rune) bool { return !inWorkload(c) }) {
			return "", fmt.Errorf("its claim %s cannot be part of an account's name", part)
		}
		b.WriteString(value)
	}
	if b.Len() > maxAccount {
		return "", fmt.Errorf("its claims make a name of more than %d bytes", maxAccount)
	}
	return b.String(), nil
}

// inWorkload says whether an account of a job may have a character in its name.
func inWorkload(c rune) bool { return isAlnum(c) || strings.ContainsRune("._-@/:", c) }
