package main

import (
	"context"
	"encoding/json"
	"os"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// user is a user of the example's storage with groups.
type user struct {
	storage.User
	Groups []string
}

// users are users by id. They implement storage.UserStore.
type users map[string]*user

func readUsers(path string) (users, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []*user
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	us := users{}
	for _, u := range list {
		us[u.ID] = u
	}
	return us, nil
}

// GetUserByID implements storage.UserStore.
func (us users) GetUserByID(id string) *storage.User {
	if u := us[id]; u != nil {
		return &u.User
	}
	return nil
}

// GetUserByUsername implements storage.UserStore.
func (us users) GetUserByUsername(name string) *storage.User {
	for _, u := range us {
		if u.Username == name {
			return &u.User
		}
	}
	return nil
}

// ExampleClientID implements storage.UserStore.
func (us users) ExampleClientID() string { return storage.ServiceUserID }

// store is the example's storage with the key of this program, groups, and
// redirects to any port of this host.
type store struct {
	*storage.Storage
	users users
	key   *key
}

// SigningKey implements op.Storage.
func (s *store) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms implements op.Storage.
func (s *store) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet implements op.Storage.
func (s *store) KeySet(context.Context) ([]op.Key, error) { return []op.Key{public{s.key}}, nil }

// SetUserinfoFromToken implements op.Storage. As the standard has it, profile,
// e-mail address and groups are told here, not in the ID token.
func (s *store) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, tokenID, subject, origin string) error {
	if err := s.Storage.SetUserinfoFromToken(ctx, info, tokenID, subject, origin); err != nil {
		return err
	}
	if u := s.users[info.Subject]; u != nil && u.Groups != nil {
		info.AppendClaims("groups", u.Groups)
	}
	return nil
}

// GetClientByClientID implements op.Storage.
func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	found, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{found}, nil
}

// client may redirect to the registry on any port of this host.
type client struct{ op.Client }

// RedirectURIGlobs implements op.HasRedirectGlobs.
func (client) RedirectURIGlobs() []string {
	return []string{
		"http://127.0.0.1:*/oidc/*/callback", "https://127.0.0.1:*/oidc/*/callback",
		"http://localhost:*/oidc/*/callback", "https://localhost:*/oidc/*/callback",
	}
}

// PostLogoutRedirectURIGlobs implements op.HasRedirectGlobs.
func (client) PostLogoutRedirectURIGlobs() []string { return nil }
