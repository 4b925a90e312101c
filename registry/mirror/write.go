package mirror

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// readOnly fails if a repository is a mirror.
func (r *Registry) readOnly(repo string) error {
	m := r.find(repo)
	if m == nil {
		return nil
	}
	return registry.ErrDenied.With("repository %s is a mirror of %s of another registry (%s), and takes no pushes: push to that registry, or to a repository whose name does not begin with %s/",
		repo, m.theirs(repo), m.Name, m.Prefix)
}

// PushBlob stores a blob, or fails with registry.ErrDenied in a mirror.
func (r *Registry) PushBlob(ctx context.Context, repo string, d digest.Digest, b io.Reader) (registry.Descriptor, error) {
	if err := r.readOnly(repo); err != nil {
		return registry.Descriptor{}, err
	}
	return r.cache.PushBlob(ctx, repo, d, b)
}

// MountBlob makes a blob of another repository readable, or fails with
// registry.ErrDenied in a mirror. Of a mirror it mounts what is cached.
func (r *Registry) MountBlob(ctx context.Context, repo, from string, d digest.Digest) (registry.Descriptor, error) {
	if err := r.readOnly(repo); err != nil {
		return registry.Descriptor{}, err
	}
	return r.cache.MountBlob(ctx, repo, from, d)
}

// PushManifest stores a manifest, or fails with registry.ErrDenied in a mirror.
func (r *Registry) PushManifest(ctx context.Context, repo string, p registry.ManifestPush) (registry.ManifestPushed, error) {
	if err := r.readOnly(repo); err != nil {
		return registry.ManifestPushed{}, err
	}
	return r.cache.PushManifest(ctx, repo, p)
}

// AdmitManifest fails with registry.ErrDenied in a mirror.
func (r *Registry) AdmitManifest(ctx context.Context, repo string, p registry.ManifestPush) error {
	if err := r.readOnly(repo); err != nil {
		return err
	}
	if a, ok := r.cache.(registry.Admitter); ok {
		return a.AdmitManifest(ctx, repo, p)
	}
	return nil
}

// StartUpload begins a session, or fails with registry.ErrDenied in a mirror.
func (r *Registry) StartUpload(ctx context.Context, repo string, alg digest.Algorithm) (string, error) {
	if err := r.readOnly(repo); err != nil {
		return "", err
	}
	return r.cache.StartUpload(ctx, repo, alg)
}

// UploadSize tells of a session, be it one from before the repository was a mirror.
func (r *Registry) UploadSize(ctx context.Context, repo, id string) (int64, error) {
	return r.cache.UploadSize(ctx, repo, id)
}

// WriteUpload appends to a session, or fails with registry.ErrDenied in a mirror.
func (r *Registry) WriteUpload(ctx context.Context, repo, id string, chunk registry.Chunk, b io.Reader) (int64, error) {
	if err := r.readOnly(repo); err != nil {
		return 0, err
	}
	return r.cache.WriteUpload(ctx, repo, id, chunk, b)
}

// CommitUpload ends a session with a blob, or fails with registry.ErrDenied in a
// mirror.
func (r *Registry) CommitUpload(ctx context.Context, repo, id string, chunk registry.Chunk, b io.Reader, d digest.Digest) (registry.Descriptor, error) {
	if err := r.readOnly(repo); err != nil {
		return registry.Descriptor{}, err
	}
	return r.cache.CommitUpload(ctx, repo, id, chunk, b, d)
}

// CancelUpload ends a session.
func (r *Registry) CancelUpload(ctx context.Context, repo, id string) error {
	return r.cache.CancelUpload(ctx, repo, id)
}

// DeleteBlob removes a blob; from a mirror, until it is asked for again.
func (r *Registry) DeleteBlob(ctx context.Context, repo string, d digest.Digest) error {
	return r.cache.DeleteBlob(ctx, repo, d)
}

// DeleteManifest removes a manifest; from a mirror, until it is asked for again.
func (r *Registry) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	return r.cache.DeleteManifest(ctx, repo, d)
}

// DeleteTag removes a tag; from a mirror, until it is asked for again.
func (r *Registry) DeleteTag(ctx context.Context, repo, tag string) error {
	return r.cache.DeleteTag(ctx, repo, tag)
}
