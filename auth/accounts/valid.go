package accounts

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/berth-registry/berth/auth"
)

const (
	maxName     = 64  // bytes of a local account's name
	minPassword = 8   // bytes
	maxPassword = 72  // bytes: bcrypt ignores all behind them
	maxText     = 256 // bytes of a note, or of a name that another source gives
	maxGroups   = 1000
	maxGrants   = 1000
)

// reserved are names that mean somebody else: to policy, or to who signs in with
// an API key (ownerAny).
var reserved = map[string]bool{"anonymous": true, "authenticated": true, "everyone": true, ownerAny: true}

// wellFormed says whether a local account could have that name.
func wellFormed(name string) bool {
	if name == "" || len(name) > maxName || strings.IndexByte("._-@", name[0]) >= 0 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._-@", r)
	})
}

func checkName(name string) error {
	if !wellFormed(name) {
		return ErrName
	}
	if reserved[name] {
		return &problem{ErrName, "bad name: " + name + " has a meaning of its own"}
	}
	return nil
}

// checkGroups returns groups sorted, each once.
func checkGroups(groups []string) ([]string, error) {
	if len(groups) > maxGroups {
		return nil, &problem{ErrName, "bad groups: more than 1000"}
	}
	for _, g := range groups {
		if g == "" || !plain(g) {
			return nil, &problem{ErrName, "bad name of a group: want 1 to 256 bytes of text without control characters"}
		}
	}
	groups = slices.Clone(groups)
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

// sound says whether s can be a password. RFC 7617, section 2 keeps control
// characters out of them; and bcrypt takes "a\x00a" for "a".
func sound(s string) bool {
	return len(s) <= maxPassword && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func checkPassword(s string) error {
	if len(s) < minPassword || !sound(s) {
		return ErrPassword
	}
	return nil
}

// plain says whether s is short text of a line.
func plain(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// check says what is wrong with a key that is made now.
func (k *NewKey) check(now time.Time) error {
	bad := func(text string) error { return &problem{ErrKey, "bad API key: " + text} }
	switch {
	case k.Source == Source && !wellFormed(k.Account):
		return auth.ErrUnknown
	case k.Account == "" || !plain(k.Account):
		return bad("its account has no name that there can be")
	case !plain(k.Source):
		return bad("its source is no name")
	case !plain(k.Note):
		return bad("its note has control characters or more than 256 bytes")
	case !k.Expires.IsZero() && !k.Expires.After(now):
		return bad("it would have expired already")
	case k.Grants != nil && len(k.Grants) == 0:
		return bad("it would allow nothing")
	case len(k.Grants) > maxGrants:
		return bad("more than 1000 grants")
	}
	for _, g := range k.Grants {
		if !auth.ValidPattern(g.Repos) {
			return bad("a grant's pattern of repositories is none")
		}
		if g.Actions == 0 || g.Actions&^(auth.Pull|auth.Push|auth.Delete|auth.Admin) != 0 {
			return bad("a grant allows no action that there is")
		}
	}
	return nil
}
