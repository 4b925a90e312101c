package gate

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// scheme is how a client says who it is.
type scheme uint8

const (
	noScheme scheme = iota
	basicScheme
	bearerScheme
)

// credentials are what an Authorization header says.
type credentials struct {
	scheme   scheme
	account  string // of Basic
	password string // of Basic
	token    string // of Bearer
}

// maxAuthorization is the greatest length of an Authorization header in bytes.
// The tokens of identity providers that list hundreds of groups fit in.
const maxAuthorization = 32 << 10

// The errors of parseAuthorization. They never repeat what the client sent.
var (
	errSeveral    = errors.New("the request has more than one Authorization header")
	errHuge       = errors.New("the Authorization header is too long")
	errScheme     = errors.New("the Authorization header is neither Basic nor Bearer")
	errMalformed  = errors.New("malformed Authorization header")
	errControl    = errors.New("control characters in the Authorization header")
	errNotUnicode = errors.New("the Authorization header is not in UTF-8")
)

// parseAuthorization reads the values of the Authorization headers of a request
// (RFC 9110, section 11.6.2). No header is no error, and gives noScheme.
func parseAuthorization(values []string) (credentials, error) {
	switch {
	case len(values) == 0:
		return credentials{}, nil
	case len(values) > 1:
		return credentials{}, errSeveral
	case len(values[0]) > maxAuthorization:
		return credentials{}, errHuge
	}
	name, rest, _ := strings.Cut(strings.Trim(values[0], " \t"), " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case strings.EqualFold(name, "Basic"):
		return parseBasic(rest)
	case strings.EqualFold(name, "Bearer"):
		if !isToken68(rest) {
			return credentials{}, errMalformed
		}
		return credentials{scheme: bearerScheme, token: rest}, nil
	}
	return credentials{}, errScheme
}

// parseBasic reads an account and a password (RFC 7617, section 2). The account
// ends at the first colon: a password may have more of them.
func parseBasic(s string) (credentials, error) {
	if !isToken68(s) { // the decoder would skip line breaks
		return credentials{}, errMalformed
	}
	decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil || strings.HasSuffix(s, "=") && len(s)%4 != 0 {
		return credentials{}, errMalformed
	}
	account, password, ok := strings.Cut(string(decoded), ":")
	switch {
	case !ok:
		return credentials{}, errMalformed
	case !utf8.Valid(decoded): // the challenge asks for it: RFC 7617, section 2.1
		return credentials{}, errNotUnicode
	case strings.ContainsFunc(string(decoded), unicode.IsControl):
		return credentials{}, errControl
	case account == "" && password == "": // what podman sends where Basic is asked for and it has nothing
		return credentials{}, nil
	}
	return credentials{scheme: basicScheme, account: account, password: password}, nil
}

// isToken68 says whether s is a token68 (RFC 9110, section 11.2), which is the
// same as a b64token of RFC 6750, section 2.1.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if !token68[s[i]] {
			return false
		}
	}
	return s != ""
}

// token68 are the characters of one: a table, as every request has a long one.
var token68 = func() (is [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/") {
		is[c] = true
	}
	return is
}()

// isKey says whether s looks like an API key: berth_<id>_<secret>.
func isKey(s string) bool {
	rest, ok := strings.CutPrefix(s, "berth_")
	if !ok {
		return false
	}
	id, secret, ok := strings.Cut(rest, "_")
	return ok && id != "" && secret != "" && isToken68(s)
}

// isJWT says whether s looks like a signed JSON Web Token (RFC 7519, section 3):
// three parts, of which the first starts as the base64url of `{"` does.
func isJWT(s string) bool {
	return strings.HasPrefix(s, "eyJ") && strings.Count(s, ".") == 2 && isToken68(s)
}
