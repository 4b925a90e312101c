package remote

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Distribution describes the image that a registry has under a name, and the
// platforms that it is for.
func (c *Client) Distribution(ctx context.Context, ref reference.Named, login *registry.AuthConfig) (registry.DistributionInspect, error) {
	r := c.Repository(ref, login)
	desc, err := r.Resolve(ctx, "")
	if err != nil {
		return registry.DistributionInspect{}, err
	}
	platforms, err := r.platforms(ctx, desc)
	return registry.DistributionInspect{Descriptor: desc, Platforms: platforms}, err
}

func (r *Repo) platforms(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Platform, error) {
	var m struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := r.decode(ctx, desc, &m); err != nil {
		return nil, err
	}
	platforms := []ocispec.Platform{}
	for _, child := range m.Manifests {
		if child.Platform != nil {
			platforms = append(platforms, *child.Platform)
		}
	}
	if m.Config == nil {
		return platforms, nil
	}
	var p ocispec.Platform
	if err := r.decode(ctx, *m.Config, &p); err != nil {
		return nil, err
	}
	return append(platforms, p), nil
}

// decode fetches a small JSON document, and verifies its digest.
func (r *Repo) decode(ctx context.Context, desc ocispec.Descriptor, v any) error {
	if desc.Size > maxManifest {
		return errTooLarge(maxManifest)
	}
	body, err := r.Fetch(ctx, "", desc, 0)
	if err != nil {
		return err
	}
	defer body.Close()
	data, err := readAll(body, maxManifest)
	if err != nil {
		return err
	}
	if desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return fmt.Errorf("what the registry sends is not %s", desc.Digest)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return nil
}
