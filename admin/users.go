package admin

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/registry"
)

func (c *call) whoAmI() (int, any, error) {
	id := c.who.id
	return http.StatusOK, Self{
		Account: id.Account, Source: id.Source, Groups: nonNil(id.Groups), Key: id.Key, Grants: newGrants(id.Grants), Admin: c.who.admin,
	}, nil
}

func (c *call) listUsers() (int, any, error) {
	all, err := c.Accounts.List(c.r.Context())
	list := userList{Users: make([]User, len(all))}
	for i, a := range all {
		list.Users[i] = newUser(a)
	}
	slices.SortFunc(list.Users, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return http.StatusOK, list, err
}

func (c *call) user() (int, any, error) {
	a, err := c.Accounts.Get(c.r.Context(), c.params[0])
	return http.StatusOK, newUser(a), err
}

func (c *call) createUser() (int, any, error) {
	var n NewUser
	if err := decode(c.w, c.r, &n); err != nil {
		return 0, nil, err
	}
	c.subject = n.Name
	a := accounts.Account{Name: n.Name, Robot: n.Robot, Groups: n.Groups, Disabled: n.Disabled}
	if err := c.Accounts.Create(c.r.Context(), a, n.Password); err != nil {
		return 0, nil, err
	}
	made, err := c.Accounts.Get(c.r.Context(), n.Name)
	return http.StatusCreated, newUser(made), err
}

func (c *call) changeUser() (int, any, error) {
	var change UserChange
	if err := decode(c.w, c.r, &change); err != nil {
		return 0, nil, err
	}
	if change.Groups == nil && change.Disabled == nil {
		return 0, nil, ErrRequestInvalid.With("nothing to change: want groups or disabled")
	}
	a, err := c.Accounts.Update(c.r.Context(), c.params[0], func(a *accounts.Account) error {
		if change.Groups != nil {
			a.Groups = *change.Groups
		}
		if change.Disabled != nil {
			a.Disabled = *change.Disabled
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	if a.Disabled && c.Tokens != nil {
		// They are of no use now, and shall not be when it is enabled again.
		_, err = c.Tokens.RevokeRefresh(c.r.Context(), a.Name)
	}
	return http.StatusOK, newUser(a), err
}

func (c *call) removeUser() (int, any, error) {
	return http.StatusNoContent, nil, c.Accounts.Remove(c.r.Context(), c.params[0])
}

func (c *call) setPassword() (int, any, error) {
	name := c.params[0]
	if !c.who.admin {
		if !c.who.isOwn(name) {
			return 0, nil, registry.ErrDenied.With("only who administers the registry may set the password of another account")
		}
		if c.who.id.Source != c.Accounts.Name() {
			return 0, nil, registry.ErrDenied.With("the account is not of this registry: its password is changed where it is kept")
		}
	}
	var change PasswordChange
	if err := decode(c.w, c.r, &change); err != nil {
		return 0, nil, err
	}
	if !c.who.admin {
		_, err := c.Accounts.Login(c.r.Context(), name, change.Old)
		if errors.Is(err, auth.ErrWrong) {
			return 0, nil, ErrPasswordWrong
		}
		if err != nil {
			return 0, nil, err
		}
	}
	return http.StatusNoContent, nil, c.Accounts.SetPassword(c.r.Context(), name, change.Password)
}

func (c *call) rotate() (int, any, error) {
	if err := decode(c.w, c.r, &struct{}{}); err != nil {
		return 0, nil, err
	}
	if c.Tokens == nil {
		return 0, nil, ErrNoTokens
	}
	return http.StatusNoContent, nil, c.Tokens.Rotate(c.r.Context())
}
