package tokens

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// Token is a registry token.
type Token struct {
	Text    string
	Issued  time.Time
	Expires time.Time
}

// claims are those of a registry token: the token specification's and one of ours.
type claims struct {
	jwt.Claims
	Access []access  `json:"access"`
	Berth  *identity `json:"berth,omitempty"`
}

func (c *claims) registered() *jwt.Claims { return &c.Claims }

// access is what a token allows in a repository (token specification, "Claim Set").
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// identity is what the specification has no claims for.
type identity struct {
	Source string            `json:"source,omitempty"`
	Groups []string          `json:"groups,omitempty"`
	Claims map[string]string `json:"claims,omitempty"`
	Key    string            `json:"key,omitempty"`
	Epoch  string            `json:"epoch,omitempty"`
	Bounds *bounds           `json:"bounds,omitempty"` // none at all is a bound, too
}

// bounds are the grants of what a token was got with.
type bounds []bound

type bound struct {
	Repos   string   `json:"repositories"` // pattern
	Actions []string `json:"actions"`
}

// Types of what access is to, and the one name that the second has.
const (
	typeRepository = "repository"
	typeRegistry   = "registry"
	nameCatalog    = "catalog"
)

// Issue returns a token that says who id is and that it may do access: each grant
// is for one repository by its exact name, or, with an empty name and auth.Pull,
// for the list of repositories. Access must not exceed the grants of id itself,
// which the token says as its bounds. It fails if access is not of that form, or if all
// that is known of id makes the token longer than MaxText.
func (s *Service) Issue(id *auth.Identity, access []auth.Grant) (Token, error) {
	list, err := accessOf(access)
	if err != nil {
		return Token{}, err
	}
	now := s.now().Truncate(time.Second) // what the claims can say
	t := Token{Issued: now, Expires: now.Add(s.o.TTL.Truncate(time.Second))}
	c := claims{
		Claims: jwt.Claims{
			Issuer:    s.o.Service,
			Subject:   id.Account,
			Audience:  jwt.Audience{s.o.Service},
			Expiry:    jwt.NewNumericDate(t.Expires),
			NotBefore: jwt.NewNumericDate(t.Issued),
			IssuedAt:  jwt.NewNumericDate(t.Issued),
			ID:        rand.Text(),
		},
		Access: list,
	}
	if !id.IsAnonymous() {
		c.Berth = &identity{id.Source, id.Groups, id.Claims, id.Key, id.Epoch, boundsOf(id.Grants)}
	}
	t.Text, err = s.sign(typToken, &c, s.now())
	return t, err
}

// Verify returns whom a registry token is of and until when it is valid. The
// identity's Grants are what the token allows, empty and not nil if that is
// nothing, and Scoped is set. The error is ErrInvalid or ErrExpired, with the
// reason. It waits only for a key that it does not know and that another replica may have
// made: some milliseconds, if nobody has asked for one in the last second, and three
// seconds at most.
func (s *Service) Verify(raw string) (*auth.Identity, time.Time, error) {
	var c claims
	if err := s.open(typToken, s.o.Service, raw, &c); err != nil {
		return nil, time.Time{}, err
	}
	id := &auth.Identity{Account: c.Subject, Grants: grantsOf(c.Access), Scoped: true}
	if b := c.Berth; b != nil {
		id.Source, id.Groups, id.Claims, id.Key, id.Epoch = b.Source, b.Groups, b.Claims, b.Key, b.Epoch
		id.Bounds = b.Bounds.grants()
	}
	return id, c.Expiry.Time(), nil
}

func boundsOf(grants []auth.Grant) *bounds {
	if grants == nil {
		return nil
	}
	list := make(bounds, 0, len(grants))
	for _, g := range grants {
		list = append(list, bound{g.Repos, g.Actions.Actions()})
	}
	return &list
}

// grants reads what boundsOf has written.
func (b *bounds) grants() []auth.Grant {
	if b == nil {
		return nil
	}
	list := make([]auth.Grant, 0, len(*b))
	for _, one := range *b {
		list = append(list, auth.Grant{Repos: one.Repos, Actions: actionsOf(one.Actions)})
	}
	return list
}

// accessOf writes grants as the token specification does.
func accessOf(grants []auth.Grant) ([]access, error) {
	list := make([]access, 0, len(grants))
	for _, g := range grants {
		switch {
		case g.Actions == 0:
		case g.Repos == "" && g.Actions == auth.Pull:
			list = append(list, access{typeRegistry, nameCatalog, []string{"*"}})
		case g.Repos == "":
			return nil, errors.New("a token for the registry as a whole can only be for the list of repositories")
		case !registry.ValidRepository(g.Repos):
			return nil, fmt.Errorf("a token is for repositories, and %q is the name of none", g.Repos)
		default:
			list = append(list, access{typeRepository, g.Repos, g.Actions.Actions()})
		}
	}
	return list, nil
}

// grantsOf reads what the token specification calls access. What names no
// repository, or no action that there is, grants nothing: a name is never cleaned
// up into another, and "*" is all actions. It does not return nil.
func grantsOf(list []access) []auth.Grant {
	grants := make([]auth.Grant, 0, len(list))
	for _, a := range list {
		switch {
		case a.Type == typeRepository && registry.ValidRepository(a.Name):
			if set := actionsOf(a.Actions); set != 0 {
				grants = append(grants, auth.Grant{Repos: a.Name, Actions: set})
			}
		case a.Type == typeRegistry && a.Name == nameCatalog && slices.Contains(a.Actions, "*"):
			grants = append(grants, auth.Grant{Actions: auth.Pull}) // never more: "" is the registry as a whole
		}
	}
	return grants
}

func actionsOf(names []string) (set auth.Action) {
	for _, name := range names {
		if name == "*" {
			return auth.Pull | auth.Push | auth.Delete | auth.Admin
		}
		a, _ := auth.ParseAction(name)
		set |= a
	}
	return set
}
