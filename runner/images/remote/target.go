package remote

import (
	"context"
	"fmt"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	orasregistry "oras.land/oras-go/v2/registry"
	orasremote "oras.land/oras-go/v2/registry/remote"
)

// Target is the repository of a name at its registry, never its mirrors, for what
// oras-go does with artifacts. The context is that of finding out how the registry is
// spoken to. Nobody watches over a server that sends nothing: that is up to the contexts
// of the methods.
func (c *Client) Target(ctx context.Context, name reference.Named, login *registry.AuthConfig) (*orasremote.Repository, error) {
	cred, err := credential(login)
	if err != nil {
		return nil, err
	}
	server, err := c.registry(reference.Domain(name), hubRegistry)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", reference.Domain(name), err)
	}
	s := c.session(server, cred)
	base, err := s.base(ctx)
	if err != nil {
		return nil, err
	}
	return &orasremote.Repository{
		Client:    s.auth,
		Reference: orasregistry.Reference{Registry: server.host, Repository: server.prefix + reference.Path(name)},
		PlainHTTP: base.Scheme == "http",
	}, nil
}
