package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-registry/berth/auth"
)

// What is taken from a token.
const (
	maxClaims     = 64      // number
	maxClaim      = 512     // bytes of a claim's value
	maxClaimBytes = 8 << 10 // of all names and values
	maxGroups     = 500     // number
	maxGroup      = 255     // bytes of a name
	maxAccount    = 255     // bytes of a name
)

// claims are what a token says: a JSON object.
type claims map[string]any

// readClaims reads those of an ID token, or of the answer to a UserInfo request.
func readClaims(t interface{ Claims(v any) error }) (claims, error) {
	var raw json.RawMessage
	if err := t.Claims(&raw); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // an id of 17 digits is not to lose its last
	var c claims
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	if c == nil {
		return nil, errors.New("it says nothing")
	}
	return c, nil
}

// lookup finds a claim by its name. A dot may be part of a name, as in the URLs
// that some providers use, or lead into an object, as in realm_access.roles; the
// longer name wins.
func (c claims) lookup(name string) (any, bool) {
	if v, ok := c[name]; ok {
		return v, true
	}
	for i := len(name) - 1; i > 0; i-- {
		if name[i] != '.' {
			continue
		}
		if inner, ok := c[name[:i]].(map[string]any); ok {
			if v, ok := claims(inner).lookup(name[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// text is the value of a claim that is text, a number or a truth value.
func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// texts are the values of a claim that is a list; of another its only one.
func texts(v any) (values []string) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, v := range list {
		if s, ok := text(v); ok {
			values = append(values, s)
		}
	}
	return values
}

// match says whether all patterns match: of a list, one of its elements.
func (c claims) match(patterns map[string]string) bool {
	for name, pattern := range patterns {
		v, ok := c.lookup(name)
		if !ok || !slices.ContainsFunc(texts(v), func(s string) bool { return auth.Glob(pattern, s) }) {
			return false
		}
	}
	return true
}

// claimTexts are the names and patterns of claims, one after the other by name.
func claimTexts(patterns map[string]string) (list []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(patterns)) {
		if name == "" || patterns[name] == "" {
			return nil, errors.New("a claim has no name or no value")
		}
		list = append(list, name, patterns[name])
	}
	return list, nil
}

// groups reads names of groups: a list of text, or text.
func (c claims) groups(name string) ([]string, error) {
	v, ok := c.lookup(name)
	if !ok {
		return nil, nil
	}
	groups := texts(v)
	if len(groups) > maxGroups {
		// To leave some out might evade a rule that forbids.
		return nil, fmt.Errorf("it names more than %d groups", maxGroups)
	}
	for _, g := range groups {
		if g == "" || len(g) > maxGroup || !isPrintable(g) {
			return nil, errors.New("it names a group that is empty, too long or no printable text")
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

// ofToken are the claims that are about the token, not about whose it is.
func ofToken(name string) bool {
	switch name {
	case "aud", "exp", "iat", "nbf", "jti", "nonce", "at_hash", "c_hash", "s_hash", "sid":
		return true
	}
	return false
}

// flat returns the claims as text, those within others by names with dots. Lists,
// long values, and what is about the token are left out.
func (c claims) flat() (map[string]string, error) {
	flat, size := map[string]string{}, 0
	var add func(prefix string, c claims) error
	add = func(prefix string, c claims) error {
		for name, v := range c {
			if prefix == "" && ofToken(name) {
				continue
			}
			name = prefix + name
			if inner, ok := v.(map[string]any); ok {
				if err := add(name+".", inner); err != nil {
					return err
				}
				continue
			}
			s, ok := text(v)
			if !ok || len(s) > maxClaim || !isPrintable(s) || strings.TrimSpace(name) == "" {
				continue
			}
			if _, twice := flat[name]; twice {
				return errors.New("two of its claims have one name")
			}
			flat[name] = s
			if size += len(name) + len(s); size > maxClaimBytes || len(flat) > maxClaims {
				return errors.New("it has too many claims")
			}
		}
		return nil
	}
	if err := add("", c); err != nil {
		return nil, err
	}
	return flat, nil
}
