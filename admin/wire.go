package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/registry"
)

// Prefix is what the path of every route starts with.
const Prefix = "/api/v1/"

const (
	maxBody  = 64 << 10         // bytes of a request's body
	bodyTime = 10 * time.Second // that a client has to send it
)

type (
	// Self is who a caller is: the answer to whoami.
	Self struct {
		Account string   `json:"account"` // empty for somebody who has not signed in
		Source  string   `json:"source,omitempty"`
		Groups  []string `json:"groups"`
		Key     string   `json:"key,omitempty"`    // id of the API key that was used
		Grants  []Grant  `json:"grants,omitempty"` // that it is limited to
		Admin   bool     `json:"admin"`            // administers the registry
	}
	// User is an account.
	User struct {
		Name     string    `json:"name"`
		Robot    bool      `json:"robot"`
		Groups   []string  `json:"groups"`
		Created  time.Time `json:"created"`
		Disabled bool      `json:"disabled"`
	}
	// NewUser is an account to be made. A robot has no password.
	NewUser struct {
		Name     string   `json:"name"`
		Password string   `json:"password,omitempty"`
		Robot    bool     `json:"robot,omitempty"`
		Groups   []string `json:"groups,omitempty"`
		Disabled bool     `json:"disabled,omitempty"`
	}
	// UserChange says what is to change about an account; nil is nothing.
	UserChange struct {
		Groups   *[]string `json:"groups,omitempty"`
		Disabled *bool     `json:"disabled,omitempty"`
	}
	// PasswordChange sets a password. Who does not administer the registry must
	// know the old one.
	PasswordChange struct {
		Old      string `json:"old,omitempty"`
		Password string `json:"password"`
	}
	// Grant allows actions in the repositories that a pattern matches.
	Grant struct {
		Repos   string   `json:"repos"`
		Actions []string `json:"actions"`
	}
	// Token is an API key.
	Token struct {
		ID      string     `json:"id"`
		Account string     `json:"account"`
		Source  string     `json:"source"`
		Grants  []Grant    `json:"grants"` // empty: all that its owner may do
		Created time.Time  `json:"created"`
		Expires *time.Time `json:"expires,omitempty"` // nil: never
		Used    *time.Time `json:"used,omitempty"`    // about when it was used last; nil: never
		Note    string     `json:"note,omitempty"`
		Secret  string     `json:"secret,omitempty"` // only when it is made
	}
	// NewToken is an API key to be made.
	NewToken struct {
		Account string     `json:"account,omitempty"` // empty: the caller's own
		Grants  []Grant    `json:"grants"`            // at least one
		Expires *time.Time `json:"expires,omitempty"`
		Never   bool       `json:"never,omitempty"` // if it does not expire
		Note    string     `json:"note,omitempty"`  // what it is for
	}

	userList struct {
		Users []User `json:"users"`
	}
	tokenList struct {
		Tokens []Token `json:"tokens"`
	}
	errorList struct {
		Errors []wireError `json:"errors"`
	}
	wireError struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
)

func newUser(a accounts.Account) User {
	return User{Name: a.Name, Robot: a.Robot, Groups: nonNil(a.Groups), Created: a.Created, Disabled: a.Disabled}
}

func newToken(k accounts.Key) Token {
	t := Token{ID: k.ID, Account: k.Account, Source: k.Source, Grants: nonNil(newGrants(k.Grants)), Created: k.Created, Note: k.Note}
	if !k.Expires.IsZero() {
		t.Expires = &k.Expires
	}
	if !k.Used.IsZero() {
		t.Used = &k.Used
	}
	return t
}

func newGrants(grants []auth.Grant) (list []Grant) {
	for _, g := range grants {
		list = append(list, Grant{Repos: g.Repos, Actions: g.Actions.Actions()})
	}
	return list
}

// nonNil makes the list that JSON writes as [].
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// decode reads the body of a request, which must be one JSON object that has
// nothing but fields of v, each at most once. The type must be JSON's: a page of
// another site can have a browser send any text, but not under this type (Fetch
// standard, "CORS-safelisted request-header").
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	return decodeMost(w, r, v, maxBody)
}

// decodeMost is decode for a body of up to most bytes.
func decodeMost(w http.ResponseWriter, r *http.Request, v any, most int64) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return ErrMediaType
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // the connection has a life after this body
	}
	tooLarge := (*http.MaxBytesError)(nil)
	switch {
	case errors.As(err, &tooLarge):
		return ErrRequestTooLarge.With("request is larger than %d KiB", most>>10)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrRequestSlow
	case err != nil:
		return ErrRequestInvalid.With("request body ended before its length")
	case !utf8.Valid(data): // a decoder would put another character there, into a password
		return ErrRequestInvalid.With("request is not UTF-8")
	}
	if err := once(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return invalid(err)
	}
	return nil
}

// invalid says what is wrong with a request without repeating what is in it: it
// may be a password.
func invalid(err error) error {
	wrong := (*json.UnmarshalTypeError)(nil)
	if errors.As(err, &wrong) && wrong.Field != "" {
		return ErrRequestInvalid.With("field %s: want %s", wrong.Field, wrong.Type.Kind())
	}
	if text := err.Error(); len(text) < 200 && strings.HasPrefix(text, "json: unknown field ") {
		return ErrRequestInvalid.With("%s", text[len("json: "):])
	}
	return ErrRequestInvalid.With("request is not the JSON that is wanted")
}

// once checks that data is one JSON object, and that no object in it has a name
// twice: which of the two counts is a matter of who reads it.
func once(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	var open []map[string]bool // nil for an array
	name := false              // whether the next token is a name of an object
	for {
		t, err := d.Token()
		if err != nil {
			return ErrRequestInvalid.With("request is not JSON")
		}
		switch {
		case t == json.Delim('{'):
			open = append(open, map[string]bool{})
		case t == json.Delim('['):
			open = append(open, nil)
		case t == json.Delim('}') || t == json.Delim(']'):
			open = open[:len(open)-1]
		case name:
			field, _ := t.(string) // the decoder lets nothing else be a name
			if strings.Trim(field, "abcdefghijklmnopqrstuvwxyz") != "" {
				return ErrRequestInvalid.With("unknown field") // to a decoder, case would not matter
			}
			if open[len(open)-1][field] {
				return ErrRequestInvalid.With("a field is there twice")
			}
			open[len(open)-1][field], name = true, false
			continue
		}
		if len(open) == 0 {
			break
		}
		name = open[len(open)-1] != nil
	}
	if _, err := d.Token(); err != io.EOF {
		return ErrRequestInvalid.With("request goes on after its end")
	}
	return nil
}

// answer writes v as JSON; nil is no body.
func answer(w http.ResponseWriter, status int, v any) {
	if v == nil {
		w.WriteHeader(status)
		return
	}
	data, err := json.Marshal(v)
	if err != nil { // cannot be: all that is written are the types above
		status, data = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // a client that has gone learns nothing anyway
}

// refuse writes an error.
func refuse(w http.ResponseWriter, err error) {
	status, list := wireErrors(err)
	answer(w, status, list)
}

// wireErrors is what is told of an error.
func wireErrors(err error) (status int, list errorList) {
	kind := (*registry.Error)(nil)
	if !errors.As(err, &kind) {
		kind, err = registry.ErrUnavailable, registry.ErrUnavailable
	}
	return kind.Status, errorList{[]wireError{{kind.Code, err.Error()}}}
}
