package auth

import (
	"context"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// session is a registry that a caller uses whose contexts have no session.
type session struct {
	id *Identity
	r  registry.Registry
}

func (s session) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	return s.r.Blob(as(ctx, s.id), repo, d)
}

func (s session) StatBlob(ctx context.Context, repo string, d digest.Digest) (registry.Descriptor, error) {
	return s.r.StatBlob(as(ctx, s.id), repo, d)
}

func (s session) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	return s.r.Manifest(as(ctx, s.id), repo, ref)
}

func (s session) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	return s.r.StatManifest(as(ctx, s.id), repo, ref)
}

func (s session) PushBlob(ctx context.Context, repo string, d digest.Digest, r io.Reader) (registry.Descriptor, error) {
	return s.r.PushBlob(as(ctx, s.id), repo, d, r)
}

func (s session) MountBlob(ctx context.Context, repo, from string, d digest.Digest) (registry.Descriptor, error) {
	return s.r.MountBlob(as(ctx, s.id), repo, from, d)
}

func (s session) PushManifest(ctx context.Context, repo string, m registry.ManifestPush) (registry.ManifestPushed, error) {
	return s.r.PushManifest(as(ctx, s.id), repo, m)
}

func (s session) StartUpload(ctx context.Context, repo string, alg digest.Algorithm) (string, error) {
	return s.r.StartUpload(as(ctx, s.id), repo, alg)
}

func (s session) UploadSize(ctx context.Context, repo, id string) (int64, error) {
	return s.r.UploadSize(as(ctx, s.id), repo, id)
}

func (s session) WriteUpload(ctx context.Context, repo, id string, c registry.Chunk, r io.Reader) (int64, error) {
	return s.r.WriteUpload(as(ctx, s.id), repo, id, c, r)
}

func (s session) CommitUpload(ctx context.Context, repo, id string, c registry.Chunk, r io.Reader, d digest.Digest) (registry.Descriptor, error) {
	return s.r.CommitUpload(as(ctx, s.id), repo, id, c, r, d)
}

func (s session) CancelUpload(ctx context.Context, repo, id string) error {
	return s.r.CancelUpload(as(ctx, s.id), repo, id)
}

func (s session) DeleteBlob(ctx context.Context, repo string, d digest.Digest) error {
	return s.r.DeleteBlob(as(ctx, s.id), repo, d)
}

func (s session) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	return s.r.DeleteManifest(as(ctx, s.id), repo, d)
}

func (s session) DeleteTag(ctx context.Context, repo, tag string) error {
	return s.r.DeleteTag(as(ctx, s.id), repo, tag)
}

func (s session) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return s.r.Repositories(as(ctx, s.id), after)
}

func (s session) Tags(ctx context.Context, repo, after string) iter.Seq2[string, error] {
	return s.r.Tags(as(ctx, s.id), repo, after)
}

func (s session) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string, after digest.Digest) iter.Seq2[registry.Descriptor, error] {
	return s.r.Referrers(as(ctx, s.id), repo, d, artifactType, after)
}

func (s session) Search(ctx context.Context, term string) iter.Seq2[registry.SearchResult, error] {
	return s.r.Search(as(ctx, s.id), term)
}
