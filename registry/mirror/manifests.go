package mirror

import (
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// found is a manifest; data may be nil where nobody wants it.
type found struct {
	data []byte
	desc registry.Descriptor
}

// reading finds a manifest in the cache.
type reading func(ctx context.Context, repo string, ref registry.Reference) (found, error)

// whole reads the manifest itself.
func (r *Registry) whole(ctx context.Context, repo string, ref registry.Reference) (f found, err error) {
	f.data, f.desc, err = r.cache.Manifest(ctx, repo, ref)
	return f, err
}

// described only describes it.
func (r *Registry) described(ctx context.Context, repo string, ref registry.Reference) (f found, err error) {
	f.desc, err = r.cache.StatManifest(ctx, repo, ref)
	return f, err
}

// Manifest returns a manifest. It fails as Options.MayFetch does, with
// registry.ErrManifestUnknown if the upstream says so, and with registry.ErrTooMany,
// registry.ErrDenied or registry.ErrUnavailable if what is not cached cannot be had
// now.
func (r *Registry) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	f, err := r.manifest(ctx, repo, ref, r.whole)
	return f.data, f.desc, err
}

// StatManifest describes a manifest, which is fetched as Manifest does: who asks for
// it will want it, and perhaps when the upstream is down.
func (r *Registry) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	f, err := r.manifest(ctx, repo, ref, r.described)
	return f.desc, err
}

func (r *Registry) manifest(ctx context.Context, repo string, ref registry.Reference, read reading) (found, error) {
	m := r.find(repo)
	switch {
	case m == nil:
		return read(ctx, repo, ref)
	case ref.Tag != "":
		return r.byTag(ctx, m, repo, ref.Tag, read)
	}
	return r.byDigest(ctx, m, repo, ref.Digest, read)
}

func (r *Registry) byDigest(ctx context.Context, m *mirrored, repo string, d digest.Digest, read reading) (found, error) {
	have, err := read(ctx, repo, registry.Reference{Digest: d})
	if err == nil {
		m.counts.hits.Add(1)
		return have, nil
	}
	if ctx.Err() != nil {
		return found{}, err
	}
	q := question{kind: aManifest, repo: repo, ref: string(d)}
	if err := r.allowed(ctx, m, q); err != nil {
		return found{}, err
	}
	m.counts.misses.Add(1)
	flight, err := m.manifests.join(q, r.goes, func() (found, error) {
		if f, err := r.whole(r.ctx, repo, registry.Reference{Digest: d}); err == nil {
			return f, nil // it came before this flight began
		}
		f, err := r.fetch(m, repo, registry.Reference{Digest: d}, "")
		return f, r.answered(m, q, err)
	})
	if err != nil {
		return found{}, err
	}
	return flight.wait(ctx, 0)
}

// fetch gets a manifest from the upstream and puts it into the cache, with a tag if
// that is not empty. What the cache does not take is returned all the same.
func (r *Registry) fetch(m *mirrored, repo string, ref registry.Reference, tag string) (f found, err error) {
	if ref.Digest != "" { // an older tag may have brought it
		f, err = r.whole(r.ctx, repo, ref)
	}
	if ref.Digest == "" || err != nil {
		f.data, f.desc, err = m.Remote.Manifest(r.ctx, m.theirs(repo), ref)
		m.counts.fetched.Add(int64(len(f.data)))
	}
	if err != nil {
		return found{}, err
	}
	push := registry.ManifestPush{Data: f.data, MediaType: f.desc.MediaType, Digest: f.desc.Digest, Sparse: true}
	if tag != "" {
		push.Tags = []string{tag}
	}
	pushed, err := r.cache.PushManifest(r.ctx, repo, push)
	if errors.Is(err, registry.ErrManifestInvalid) && push.MediaType != "" {
		push.MediaType = "" // some upstreams send another than the manifest's own
		pushed, err = r.cache.PushManifest(r.ctx, repo, push)
	}
	switch {
	case err == nil:
		f.desc = pushed.Descriptor
	case r.ctx.Err() != nil:
		return found{}, errClosed
	case errors.Is(err, registry.ErrTagImmutable):
		return f, err
	default:
		r.warn("what a mirror fetched was not kept", err,
			slog.String("mirror", m.Name), slog.String("repo", repo), slog.String("manifest", string(f.desc.Digest)))
		return f, nil
	}
	if tag != "" {
		r.learnt(m, repo, tag, f.desc.Digest)
	}
	return f, nil
}

// learnt notes what a tag names upstream now.
func (r *Registry) learnt(m *mirrored, repo, tag string, d digest.Digest) {
	err := r.cache.SetUpstreamed(r.ctx, repo, tag, registry.Upstreamed{Digest: d, Checked: r.o.Now()})
	r.warn("what a mirror learnt of a tag was not kept", err, // so it is asked for again sooner
		slog.String("mirror", m.Name), slog.String("repo", repo), slog.String("tag", tag))
}
