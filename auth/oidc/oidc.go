// Package oidc knows people and jobs by what an OpenID Connect provider says of
// them.
//
// Provider signs people in to the registry's pages: the authorization code flow
// with PKCE (OpenID Connect Core 1.0, section 3.1; RFC 7636). Workload knows jobs
// of continuous integration by the ID token that their platform gives them, as
// GitHub Actions and GitLab do, and by rules on its claims.
//
// A token is good only if a key of its provider has signed it, by an asymmetric
// algorithm, and if issuer, audience and times are right. The provider may be down
// when the registry starts: it is asked when it is needed, and again a moment
// later if it fails. What it answers is bounded in size and time, redirects lead
// nowhere else, and no token makes the registry ask a host that is not
// configured. The keys are kept for an hour, and looked up sooner when a token
// names another, but seldom enough that nobody can use the registry to flood the
// provider.
//
// The package keeps no sessions, and does not hear when a provider's account is
// closed: what was granted ends when it expires.
package oidc

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/trust"
)

// ErrUnavailable says that a provider could not be asked, or that its answer
// makes no sense: nothing is known of the one who wants to sign in.
var ErrUnavailable = errors.New("identity provider is not available")

// maxToken is the length of the longest token that is looked at, in bytes.
const maxToken = 16 << 10

// IsJWT says whether s looks like a JSON Web Token in compact form (RFC 7515,
// section 3.1): header, payload and signature, the header a JSON object.
func IsJWT(s string) bool {
	header, rest, ok := strings.Cut(s, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	// "eyJ" is how `{"` starts in base64.
	return ok && ok2 && strings.HasPrefix(header, "eyJ") && payload != "" && signature != "" &&
		isBase64(header) && isBase64(payload) && isBase64(signature)
}

func isBase64(s string) bool {
	for _, c := range []byte(s) {
		if !isAlnum(rune(c)) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func isAlnum(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// peekIssuer reads the issuer of a token that nobody has verified: good only to
// choose who is to verify it.
func peekIssuer(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", wrong("it is no JSON Web Token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", wrong("its payload is not base64")
	}
	var p struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return "", wrong("its payload is not a JSON object with an issuer")
	}
	return p.Issuer, nil
}

// refusal is an error of a kind that callers look for, with a reason for the log.
type refusal struct {
	kind   error
	reason string
}

func (r *refusal) Error() string { return r.reason }
func (r *refusal) Unwrap() error { return r.kind }

// wrong returns an auth.ErrWrong with its reason, which must hold no secrets.
func wrong(format string, args ...any) error {
	return &refusal{auth.ErrWrong, "token refused: " + clean(fmt.Sprintf(format, args...))}
}

// unavailable returns an ErrUnavailable with its reason.
func unavailable(issuer string, err error) error {
	return &refusal{ErrUnavailable, fmt.Sprintf("identity provider %s: %s", issuer, clean(err.Error()))}
}

// maxReason is how much of an error is told, in bytes: those of a library may
// have the whole answer of a provider in them.
const maxReason = 300

// clean makes text that a provider may have written fit for a log.
func clean(s string) string {
	cut := len(s) > maxReason
	if cut {
		s = s[:maxReason]
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if cut {
		s += "..."
	}
	return s
}

// isPrintable says whether s is text without control characters.
func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// checkName says whether a provider or a rule may be named so: the name is in
// URLs, in accounts and in logs.
func checkName(name string) error {
	if strings.ContainsFunc(name, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' }) {
		return fmt.Errorf("name %q: only lower-case letters, digits, - and _", name)
	}
	if name == "" || len(name) > 64 {
		return fmt.Errorf("name %q: from 1 to 64 characters", name)
	}
	return nil
}

// checkIssuer says whether the URL can be an issuer: https, without query and
// fragment (OpenID Connect Core 1.0, section 2, "iss"), or http on loopback.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("issuer %q: an https URL without user, query and fragment is wanted", issuer)
	case u.Scheme == "https", u.Scheme == "http" && trust.IsLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("issuer %q: only https, or http on a loopback address", issuer)
}
