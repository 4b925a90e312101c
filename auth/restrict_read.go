package auth

import (
	"context"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// The errors here are those of registry.Local, word by word: a test compares them.

func blobUnknown(repo string, d digest.Digest) error {
	return registry.ErrBlobUnknown.With("blob %s is unknown to repository %s", d, repo)
}

func manifestUnknown(repo string, ref registry.Reference) error {
	if ref.Tag != "" {
		return registry.ErrManifestUnknown.With("tag %s is unknown to repository %s", ref.Tag, repo)
	}
	return registry.ErrManifestUnknown.With("manifest %s is unknown to repository %s", ref.Digest, repo)
}

func nameUnknown(repo string) error {
	return registry.ErrNameUnknown.With("repository %s is not known to the registry", repo)
}

// Blob implements registry.Reader.
func (r *restricted) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	if err := r.check(ctx, repo, Pull, string(d)); err != nil {
		return nil, registry.Descriptor{}, hide(err, blobUnknown(repo, d))
	}
	return r.inner.Blob(ctx, repo, d)
}

// StatBlob implements registry.Reader.
func (r *restricted) StatBlob(ctx context.Context, repo string, d digest.Digest) (registry.Descriptor, error) {
	if err := r.check(ctx, repo, Pull, string(d)); err != nil {
		return registry.Descriptor{}, hide(err, blobUnknown(repo, d))
	}
	return r.inner.StatBlob(ctx, repo, d)
}

// Manifest implements registry.Reader.
func (r *restricted) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	if err := r.check(ctx, repo, Pull, ref.String()); err != nil {
		return nil, registry.Descriptor{}, hide(err, manifestUnknown(repo, ref))
	}
	return r.inner.Manifest(ctx, repo, ref)
}

// StatManifest implements registry.Reader.
func (r *restricted) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	if err := r.check(ctx, repo, Pull, ref.String()); err != nil {
		return registry.Descriptor{}, hide(err, manifestUnknown(repo, ref))
	}
	return r.inner.StatManifest(ctx, repo, ref)
}

// Tags implements registry.Lister.
func (r *restricted) Tags(ctx context.Context, repo, after string) iter.Seq2[string, error] {
	if err := r.check(ctx, repo, Pull, ""); err != nil {
		return failing[string](hide(err, nameUnknown(repo)))
	}
	return r.inner.Tags(ctx, repo, after)
}

// Referrers implements registry.Lister. A manifest that is not there has none.
func (r *restricted) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string, after digest.Digest) iter.Seq2[registry.Descriptor, error] {
	if err := r.check(ctx, repo, Pull, string(d)); err != nil {
		if err = hide(err, nil); err == nil {
			return func(func(registry.Descriptor, error) bool) {}
		}
		return failing[registry.Descriptor](err)
	}
	return r.inner.Referrers(ctx, repo, d, artifactType, after)
}
