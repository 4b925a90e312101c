package retention

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// Wrap wraps a registry so that pulls from it are recorded.
func (p *Pulls) Wrap(r registry.Registry) registry.Registry { return &recording{r, p} }

type recording struct {
	registry.Registry
	pulls *Pulls
}

func (r *recording) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	data, desc, err := r.Registry.Manifest(ctx, repo, ref)
	if err == nil {
		r.pulls.noteManifest(repo, ref, desc.Digest)
	}
	return data, desc, err
}

func (r *recording) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	desc, err := r.Registry.StatManifest(ctx, repo, ref)
	if err == nil && ref.Tag != "" && r.pulls.isCached(repo) {
		r.pulls.noteManifest(repo, ref, desc.Digest)
	}
	return desc, err
}

func (r *recording) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	f, desc, err := r.Registry.Blob(ctx, repo, d)
	if err == nil && r.pulls.isCached(repo) {
		r.pulls.note(pull{repo, registry.Reference{Digest: d}}, true)
	}
	return f, desc, err
}

// noteManifest takes down the pull of a manifest by a reference.
func (p *Pulls) noteManifest(repo string, ref registry.Reference, d digest.Digest) {
	cached := p.isCached(repo)
	p.note(pull{repo, ref}, cached)
	if cached && ref.Tag != "" && d != "" {
		p.note(pull{repo, registry.Reference{Digest: d}}, cached)
	}
}
