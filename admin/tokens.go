package admin

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/registry"
)

// maxTokens is how many keys an account can have that makes its own.
const maxTokens = 100

// listTokens lists the caller's own keys; those of another account, or of all, for
// who administers.
func (c *call) listTokens() (int, any, error) {
	account, err := c.listed()
	if err != nil {
		return 0, nil, err
	}
	if !c.who.admin && !c.who.isOwn(account) {
		return 0, nil, registry.ErrDenied.With("only who administers the registry may see the API keys of others")
	}
	keys, err := c.Accounts.Keys(c.r.Context(), account)
	list := tokenList{Tokens: make([]Token, len(keys))}
	for i, k := range keys {
		list.Tokens[i] = newToken(k)
	}
	slices.SortFunc(list.Tokens, func(a, b Token) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return http.StatusOK, list, err
}

// listed reads whose keys are to be listed from the query: ?account=NAME, ?all=true
// or, for the caller's own, nothing.
func (c *call) listed() (account string, err error) {
	query, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return "", ErrRequestInvalid.With("invalid query")
	}
	names, all := query["account"], query["all"]
	switch {
	case len(query) == 0 && !c.who.local:
		return c.who.id.Account, nil
	case len(query) == 1 && len(names) == 1 && names[0] != "":
		return names[0], nil
	case len(query) == 1 && len(all) == 1 && all[0] == "true":
		return "", nil
	}
	return "", ErrRequestInvalid.With("want the query account=NAME or all=true, or none for the own keys")
}

func (c *call) createToken() (int, any, error) {
	var n NewToken
	if err := decode(c.w, c.r, &n); err != nil {
		return 0, nil, err
	}
	key, err := c.newKey(n)
	c.subject = cmp.Or(n.Account, c.who.id.Account)
	if err != nil {
		return 0, nil, err
	}
	if !c.who.admin {
		have, err := c.Accounts.Keys(c.r.Context(), key.Account)
		if err != nil {
			return 0, nil, err
		}
		if len(have) >= maxTokens {
			return 0, nil, ErrTooManyTokens
		}
	}
	made, secret, err := c.Accounts.CreateKey(c.r.Context(), key)
	if err != nil {
		return 0, nil, err
	}
	c.subject = made.Account + "/" + made.ID
	t := newToken(made)
	t.Secret = secret
	return http.StatusCreated, t, nil
}

// newKey checks whose key it is to be and what it may do. What its owner may not,
// policy refuses when it is used: it is asked about the owner then.
func (c *call) newKey(n NewToken) (key accounts.NewKey, err error) {
	id := c.who.id
	key = accounts.NewKey{Account: n.Account, Source: c.Accounts.Name(), Note: n.Note}
	switch {
	case n.Account == "" && c.who.local:
		return key, ErrTokenInvalid.With("field account: say whose the key is")
	case n.Account == "" || c.who.isOwn(n.Account):
		if id.Claims != nil {
			return key, registry.ErrDenied.With("whom an identity provider's token vouches for has no API keys: policy would not know its claims")
		}
		if c.Lasts != nil && !c.Lasts(id) {
			return key, registry.ErrDenied.With("what you signed in with ends, and an API key could outlive it; ask who administers the registry for an account")
		}
		key.Account, key.Source = id.Account, id.Source
		if id.Source != c.Accounts.Name() { // which knows the groups itself
			key.Groups = id.Groups
		}
	case !c.who.admin:
		return key, registry.ErrDenied.With("only who administers the registry may make API keys for others")
	default:
		if _, err := c.Accounts.Get(c.r.Context(), n.Account); err != nil {
			return key, err
		}
	}
	if key.Grants, err = readGrants(n.Grants); err != nil {
		return key, err
	}
	if !within(key.Grants, id.Grants) {
		return key, registry.ErrDenied.With("an API key cannot make one that may do more than itself")
	}
	if n.Never == (n.Expires != nil) {
		return key, ErrTokenInvalid.With("want either the field expires or never")
	}
	if n.Expires != nil {
		key.Expires = n.Expires.UTC()
	}
	return key, nil
}

func readGrants(list []Grant) ([]auth.Grant, error) {
	if len(list) == 0 {
		return nil, ErrTokenInvalid.With("field grants: say what the key is for")
	}
	var grants []auth.Grant
	for _, g := range list {
		grant := auth.Grant{Repos: g.Repos}
		for _, name := range g.Actions {
			a, ok := auth.ParseAction(name)
			if !ok {
				return nil, ErrTokenInvalid.With("field grants: %q is no action: want pull, push, delete or admin", clean(name))
			}
			grant.Actions |= a
		}
		grants = append(grants, grant)
	}
	return grants, nil
}

// within says whether grants allow nothing that limits do not. Patterns are not
// weighed against each other: a grant must be one of limits, with no more actions,
// or one of limits be for all.
func within(grants, limits []auth.Grant) bool {
	if limits == nil {
		return true
	}
	for _, g := range grants {
		var may auth.Action
		for _, limit := range limits {
			if limit.Repos == g.Repos || limit.Repos == "**" {
				may |= limit.Actions
			}
		}
		if g.Actions&^may != 0 {
			return false
		}
	}
	return true
}

// revokeToken revokes a key of the caller's own, or any for who administers. To
// others a key that is not theirs is the same as one that is not there.
func (c *call) revokeToken() (int, any, error) {
	id := c.params[0]
	if !c.who.admin {
		mine, err := c.mayRevoke(id)
		if err != nil {
			return 0, nil, err
		}
		if !mine {
			return 0, nil, ErrTokenUnknown
		}
	}
	key, err := c.Accounts.RevokeKey(c.r.Context(), id)
	if errors.Is(err, auth.ErrUnknown) {
		err = ErrTokenUnknown
	}
	if err == nil {
		c.subject = key.Account + "/" + key.ID
	}
	return http.StatusNoContent, nil, err
}

func (c *call) mayRevoke(id string) (bool, error) {
	who := c.who.id
	switch {
	case who.Scoped, who.Final:
		return false, registry.ErrDenied.With("a registry token is for the registry's content: sign in with a password")
	case who.Key != "":
		return who.Key == id, nil // a key that leaked can be revoked by whoever finds it
	}
	keys, err := c.Accounts.Keys(c.r.Context(), who.Account)
	return slices.ContainsFunc(keys, func(k accounts.Key) bool { return k.ID == id }), err
}
