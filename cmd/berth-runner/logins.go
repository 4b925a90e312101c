package main

import (
	"context"
	"fmt"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/report"
)

// logins returns what a configuration has for the registry of a host: nil where that
// asks nobody, or a certificate says who this is. Passwords are read anew each time.
func logins(cfg runnerconfig.Config) func(host string) (*registry.AuthConfig, error) {
	return func(host string) (*registry.AuthConfig, error) {
		h := cfg.Registries[host]
		if h == nil || h.Username == "" {
			return nil, nil //nolint:nilnil // as said
		}
		password, err := report.ReadPassword(h.PasswordFile)
		if err != nil {
			return nil, runner.Errorf(runner.ErrUnauthorized, "%w", err)
		}
		return &registry.AuthConfig{Username: h.Username, Password: password}, nil
	}
}

// dockerLogin is what docker has for a registry; nil if that is nothing.
func dockerLogin(ctx context.Context, host string) (*registry.AuthConfig, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read docker's configuration: %w", err)
	}
	address := credentials.ServerAddressFromRegistry(host)
	c, err := store.Get(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("docker's credentials for %s: %w", host, err)
	}
	if c == auth.EmptyCredential {
		return nil, nil //nolint:nilnil // as said
	}
	return &registry.AuthConfig{
		Username: c.Username, Password: c.Password, IdentityToken: c.RefreshToken, RegistryToken: c.AccessToken, ServerAddress: address,
	}, nil
}

// credentialsOf are those for the registries of a stack's images, by host.
func credentialsOf(s deploy.Stack, login func(host string) (*registry.AuthConfig, error)) (map[string]registry.AuthConfig, error) {
	found := map[string]registry.AuthConfig{}
	for _, service := range s.Services {
		named, err := reference.ParseNormalizedNamed(service.Image)
		if err != nil {
			continue // the runner says what is wrong with it
		}
		host := reference.Domain(named)
		if _, ok := found[host]; ok {
			continue
		}
		l, err := login(host)
		if err != nil {
			return nil, err
		}
		if l != nil {
			found[host] = *l
		}
	}
	return found, nil
}
