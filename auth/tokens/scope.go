package tokens

import (
	"slices"
	"strings"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// Bounds of what a client may ask for at once.
const (
	maxScopes     = 100
	maxScopesText = 64 << 10
	maxScopeWord  = 32 // bytes of a type, class or action
	maxActions    = 16
)

// Scope is access that a client asks for:
//
//	repository:team/web:pull,push
//	repository(plugin):team/plugin:pull
//	registry:catalog:*
type Scope struct {
	Type    string // "repository", "registry", or one that grants nothing
	Class   string // of the resource: "" or "plugin", for example
	Name    string
	Actions []string // each once
}

// ParseScopes reads the values of the parameter "scope", of which each may hold
// several scopes with spaces between (token specification, "Token Scope
// Documentation"). Names are repository names, whatever their type. It takes at
// most 100 scopes; its errors wrap registry.ErrNameInvalid and are for the client.
func ParseScopes(values []string) ([]Scope, error) {
	var scopes []Scope
	size := 0
	for _, value := range values {
		if size += len(value); size > maxScopesText {
			return nil, registry.ErrNameInvalid.With("the scopes are too long: the most is %d bytes", maxScopesText)
		}
		for text := range strings.SplitSeq(value, " ") {
			if text == "" {
				continue
			}
			if len(scopes) == maxScopes {
				return nil, registry.ErrNameInvalid.With("too many scopes: the most is %d", maxScopes)
			}
			s, err := parseScope(text)
			if err != nil {
				return nil, err
			}
			scopes = append(scopes, s)
		}
	}
	return scopes, nil
}

func parseScope(text string) (Scope, error) {
	typ, rest, ok := strings.Cut(text, ":")
	name, actions, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return Scope{}, registry.ErrNameInvalid.With("invalid scope %q: want TYPE:NAME:ACTION[,ACTION...]", clip(text))
	}
	s := Scope{Type: typ, Name: name}
	if open := strings.IndexByte(typ, '('); open >= 0 && strings.HasSuffix(typ, ")") {
		s.Type, s.Class = typ[:open], typ[open+1:len(typ)-1]
		if s.Class == "" {
			return Scope{}, registry.ErrNameInvalid.With("invalid scope %q: its class is empty", clip(text))
		}
	}
	if !validWord(s.Type, true) || s.Class != "" && !validWord(s.Class, true) {
		return Scope{}, registry.ErrNameInvalid.With("invalid scope %q: a type is lower-case letters and digits", clip(text))
	}
	if !registry.ValidRepository(name) {
		return Scope{}, registry.ErrNameInvalid.With("invalid scope %q: invalid repository name", clip(text))
	}
	if strings.Count(actions, ",") >= maxActions {
		return Scope{}, registry.ErrNameInvalid.With("invalid scope %q: too many actions", clip(text))
	}
	for action := range strings.SplitSeq(actions, ",") {
		switch {
		case action == "" || slices.Contains(s.Actions, action): // the grammar allows an action of no letters
		case action != "*" && !validWord(action, false):
			return Scope{}, registry.ErrNameInvalid.With("invalid scope %q: an action is lower-case letters, or *", clip(text))
		default:
			s.Actions = append(s.Actions, action)
		}
	}
	return s, nil
}

func validWord(s string, digits bool) bool {
	if s == "" || len(s) > maxScopeWord {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (!digits || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// String writes a scope as ParseScopes reads it.
func (s Scope) String() string {
	typ := s.Type
	if s.Class != "" {
		typ += "(" + s.Class + ")"
	}
	return typ + ":" + s.Name + ":" + strings.Join(s.Actions, ",")
}

// IsRepository says that the scope is for a repository, of any class.
func (s Scope) IsRepository() bool { return s.Type == typeRepository }

// IsCatalog says that the scope is for the list of repositories.
func (s Scope) IsCatalog() bool { return s.Type == typeRegistry && s.Name == nameCatalog }

// Set returns the actions that there are among the scope's: "*" is all of them.
func (s Scope) Set() auth.Action { return actionsOf(s.Actions) }

// clip shortens what a client sent to what is worth repeating to it.
func clip(s string) string {
	const most = 160
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
