package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// blobType is the media type of a blob.
const blobType = "application/octet-stream"

func descriptor(d digest.Digest, size int64) registry.Descriptor {
	return registry.Descriptor{MediaType: blobType, Digest: d, Size: size}
}

// Blob opens a blob: that of the cache, or one that is coming from the upstream,
// together with all who want it. Reading it fails if it turns out not to be d, or
// cannot come to its end. Blob fails as Manifest does, with registry.ErrBlobUnknown
// in place of registry.ErrManifestUnknown.
func (r *Registry) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	m := r.find(repo)
	if m == nil {
		return r.cache.Blob(ctx, repo, d)
	}
	for range maxLooks {
		b, desc, err := r.sound(ctx, repo, d)
		if err == nil {
			m.counts.hits.Add(1)
			return b, desc, nil
		}
		if ctx.Err() != nil {
			return nil, registry.Descriptor{}, err
		}
		f, err := r.fill(ctx, m, repo, d)
		var reader *follower
		if err == nil {
			reader, err = f.follow(ctx, repo)
		}
		switch {
		case err == nil:
			return reader, descriptor(d, reader.size), nil
		case errors.Is(err, errDirect):
			return r.direct(ctx, m, repo, d)
		case !errors.Is(err, errCached): // else it may be in the cache
			return nil, registry.Descriptor{}, err
		}
	}
	return nil, registry.Descriptor{}, registry.ErrUnavailable.With("mirror %s: blob %s comes and goes", m.Name, d)
}

// maxLooks is how often a blob is looked for that came for somebody else, or did not.
const maxLooks = 32

// sound opens a blob of the cache that has all its bytes.
func (r *Registry) sound(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	b, desc, err := r.cache.Blob(ctx, repo, d)
	if err != nil {
		return nil, desc, err
	}
	size, err := b.Seek(0, io.SeekEnd)
	if err == nil && size != desc.Size {
		err = fmt.Errorf("blob %s has %d bytes in the cache instead of %d", d, size, desc.Size)
	}
	if err == nil {
		_, err = b.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = b.Close() // it is of no use
		return nil, desc, err
	}
	return b, desc, nil
}

// StatBlob describes a blob, which is not fetched for that.
func (r *Registry) StatBlob(ctx context.Context, repo string, d digest.Digest) (registry.Descriptor, error) {
	m := r.find(repo)
	desc, err := r.cache.StatBlob(ctx, repo, d)
	if m == nil || err != nil && ctx.Err() != nil {
		return desc, err
	}
	if err == nil {
		m.counts.hits.Add(1)
		return desc, nil
	}
	if err := r.allowed(ctx, m, question{kind: aBlob, repo: repo, ref: string(d)}); err != nil {
		return registry.Descriptor{}, err
	}
	m.counts.misses.Add(1)
	return r.stat(ctx, m, repo, d)
}

// stat asks the upstream whether a repository has a blob.
func (r *Registry) stat(ctx context.Context, m *mirrored, repo string, d digest.Digest) (registry.Descriptor, error) {
	q := question{kind: aBlob, repo: repo, ref: string(d)}
	flight, err := m.stats.join(q, r.goes, func() (registry.Descriptor, error) {
		desc, err := m.Remote.StatBlob(r.ctx, m.theirs(repo), d)
		return desc, r.answered(m, q, err)
	})
	if err != nil {
		return registry.Descriptor{}, err
	}
	return flight.wait(ctx, 0)
}

// Refetch gets content from an upstream that is damaged in the cache: a blob or a
// manifest of one of the repositories, those of no mirror left out. It fails if none
// of their upstreams gives it, or the cache does not take it.
func (r *Registry) Refetch(ctx context.Context, d digest.Digest, repos iter.Seq[string]) error {
	err := registry.ErrBlobUnknown.With("no repository of a mirror has %s", d)
	for repo := range repos {
		m := r.find(repo)
		if m == nil {
			continue
		}
		if err = r.refetch(ctx, m, repo, d); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (r *Registry) refetch(ctx context.Context, m *mirrored, repo string, d digest.Digest) error {
	if err := m.Unavailable(); err != nil {
		return m.failure(err)
	}
	err := r.refill(ctx, m, repo, d)
	if !isAbsent(err) {
		return err
	}
	data, desc, err := m.Remote.Manifest(ctx, m.theirs(repo), registry.Reference{Digest: d})
	if err := r.answered(m, question{kind: aManifest, repo: repo, ref: string(d)}, err); err != nil {
		return err
	}
	m.counts.fetched.Add(int64(len(data)))
	_, err = r.cache.PushManifest(ctx, repo, registry.ManifestPush{Data: data, MediaType: desc.MediaType, Digest: d, Sparse: true})
	return err
}

// refill gets a blob, whether or not the cache seems to have it.
func (r *Registry) refill(ctx context.Context, m *mirrored, repo string, d digest.Digest) error {
	for range maxLooks {
		f, err := r.begin(m, repo, d, true)
		if err == nil {
			err = f.end(ctx)
		}
		if errors.Is(err, errDirect) {
			return registry.ErrNoSpace
		}
		if !errors.Is(err, errCached) {
			return err
		}
	}
	return registry.ErrUnavailable.With("mirror %s: blob %s comes and goes", m.Name, d)
}

// end waits until the fill is over, and says whether the cache has the blob.
func (f *fill) end(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.over {
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
	return errors.Join(f.err, f.kept)
}
