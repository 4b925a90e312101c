package auth

import (
	"context"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// PushBlob implements registry.Writer.
func (r *restricted) PushBlob(ctx context.Context, repo string, d digest.Digest, body io.Reader) (registry.Descriptor, error) {
	if err := r.check(ctx, repo, Push, string(d)); err != nil {
		return registry.Descriptor{}, err
	}
	return r.inner.PushBlob(ctx, repo, d, body)
}

// MountBlob implements registry.Writer. A blob that the caller could not pull is
// unknown, as one is that is not there. A client whose token lacks the scope for
// that alone is told to get it, as by Docker's registry: otherwise it would upload
// what is there.
func (r *restricted) MountBlob(ctx context.Context, repo, from string, d digest.Digest) (registry.Descriptor, error) {
	push := Denial{Repo: repo, Action: Push, Ref: string(d), From: from}
	if err := r.decide(ctx, push); err != nil {
		return registry.Descriptor{}, err
	}
	s := FromContext(ctx) // decide has found one
	id := s.Identity
	switch {
	case from == "" && r.everywhere(id, Pull), from != "" && Allowed(r.auth, id, from, Pull):
		return r.inner.MountBlob(ctx, repo, from, d)
	case from == "": // the client asks for whatever it may use, which is nothing
		return registry.Descriptor{}, registry.ErrBlobUnknown.With("blob %s is unknown to every repository", d)
	}
	decision := r.auth.Decide(id, from, Pull)
	pull := Denial{Repo: from, Action: Pull, Ref: string(d), Rule: decision.Rule}
	pull.Insufficient = decision.Allowed && !id.Final && widens(id, from, Pull)
	r.denied(ctx, pull)
	if pull.Insufficient {
		push.Insufficient = true
		return registry.Descriptor{}, challenge(s, push, registry.ErrUnauthorized.With("the token's scope does not let you %s", deed(pull)))
	}
	return registry.Descriptor{}, blobUnknown(from, d)
}

// everywhere says that id may do a to every repository.
func (r *restricted) everywhere(id *Identity, a Action) bool {
	return Allowed(r.auth, id, "", a) && (id.Final || r.auth.Everywhere(id, a))
}

// PushManifest implements registry.Writer.
func (r *restricted) PushManifest(ctx context.Context, repo string, m registry.ManifestPush) (registry.ManifestPushed, error) {
	ref := string(m.Digest)
	if len(m.Tags) > 0 {
		ref = strings.Join(m.Tags, ",")
	}
	if err := r.check(ctx, repo, Push, ref); err != nil {
		return registry.ManifestPushed{}, err
	}
	return r.inner.PushManifest(ctx, repo, m)
}

// StartUpload implements registry.Uploader.
func (r *restricted) StartUpload(ctx context.Context, repo string, alg digest.Algorithm) (string, error) {
	if err := r.check(ctx, repo, Push, ""); err != nil {
		return "", err
	}
	return r.inner.StartUpload(ctx, repo, alg)
}

// UploadSize implements registry.Uploader.
func (r *restricted) UploadSize(ctx context.Context, repo, id string) (int64, error) {
	if err := r.check(ctx, repo, Push, ""); err != nil {
		return 0, err
	}
	return r.inner.UploadSize(ctx, repo, id)
}

// WriteUpload implements registry.Uploader.
func (r *restricted) WriteUpload(ctx context.Context, repo, id string, chunk registry.Chunk, body io.Reader) (int64, error) {
	if err := r.check(ctx, repo, Push, ""); err != nil {
		return 0, err
	}
	return r.inner.WriteUpload(ctx, repo, id, chunk, body)
}

// CommitUpload implements registry.Uploader.
func (r *restricted) CommitUpload(ctx context.Context, repo, id string, chunk registry.Chunk, body io.Reader, d digest.Digest) (registry.Descriptor, error) {
	if err := r.check(ctx, repo, Push, string(d)); err != nil {
		return registry.Descriptor{}, err
	}
	return r.inner.CommitUpload(ctx, repo, id, chunk, body, d)
}

// CancelUpload implements registry.Uploader.
func (r *restricted) CancelUpload(ctx context.Context, repo, id string) error {
	if err := r.check(ctx, repo, Push, ""); err != nil {
		return err
	}
	return r.inner.CancelUpload(ctx, repo, id)
}

// DeleteBlob implements registry.Deleter.
func (r *restricted) DeleteBlob(ctx context.Context, repo string, d digest.Digest) error {
	if err := r.check(ctx, repo, Delete, string(d)); err != nil {
		return err
	}
	return r.inner.DeleteBlob(ctx, repo, d)
}

// DeleteManifest implements registry.Deleter.
func (r *restricted) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	if err := r.check(ctx, repo, Delete, string(d)); err != nil {
		return err
	}
	return r.inner.DeleteManifest(ctx, repo, d)
}

// DeleteTag implements registry.Deleter.
func (r *restricted) DeleteTag(ctx context.Context, repo, tag string) error {
	if err := r.check(ctx, repo, Delete, tag); err != nil {
		return err
	}
	return r.inner.DeleteTag(ctx, repo, tag)
}
