package auth

import (
	"context"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// refuseAll is a registry that refuses everything.
type refuseAll struct{}

var _ registry.Registry = refuseAll{}

func (refuseAll) Blob(context.Context, string, digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	return nil, registry.Descriptor{}, registry.ErrDenied
}

func (refuseAll) StatBlob(context.Context, string, digest.Digest) (registry.Descriptor, error) {
	return registry.Descriptor{}, registry.ErrDenied
}

func (refuseAll) Manifest(context.Context, string, registry.Reference) ([]byte, registry.Descriptor, error) {
	return nil, registry.Descriptor{}, registry.ErrDenied
}

func (refuseAll) StatManifest(context.Context, string, registry.Reference) (registry.Descriptor, error) {
	return registry.Descriptor{}, registry.ErrDenied
}

func (refuseAll) PushBlob(context.Context, string, digest.Digest, io.Reader) (registry.Descriptor, error) {
	return registry.Descriptor{}, registry.ErrDenied
}

func (refuseAll) MountBlob(context.Context, string, string, digest.Digest) (registry.Descriptor, error) {
	return registry.Descriptor{}, registry.ErrDenied
}

func (refuseAll) PushManifest(context.Context, string, registry.ManifestPush) (registry.ManifestPushed, error) {
	return registry.ManifestPushed{}, registry.ErrDenied
}

func (refuseAll) StartUpload(context.Context, string, digest.Algorithm) (string, error) {
	return "", registry.ErrDenied
}

func (refuseAll) UploadSize(context.Context, string, string) (int64, error) {
	return 0, registry.ErrDenied
}

func (refuseAll) WriteUpload(context.Context, string, string, registry.Chunk, io.Reader) (int64, error) {
	return 0, registry.ErrDenied
}

func (refuseAll) CommitUpload(context.Context, string, string, registry.Chunk, io.Reader, digest.Digest) (registry.Descriptor, error) {
	return registry.Descriptor{}, registry.ErrDenied
}

func (refuseAll) CancelUpload(context.Context, string, string) error { return registry.ErrDenied }

func (refuseAll) DeleteBlob(context.Context, string, digest.Digest) error { return registry.ErrDenied }

func (refuseAll) DeleteManifest(context.Context, string, digest.Digest) error {
	return registry.ErrDenied
}

func (refuseAll) DeleteTag(context.Context, string, string) error { return registry.ErrDenied }

func (refuseAll) Repositories(context.Context, string) iter.Seq2[string, error] {
	return failing[string](registry.ErrDenied)
}

func (refuseAll) Tags(context.Context, string, string) iter.Seq2[string, error] {
	return failing[string](registry.ErrDenied)
}

func (refuseAll) Referrers(context.Context, string, digest.Digest, string, digest.Digest) iter.Seq2[registry.Descriptor, error] {
	return failing[registry.Descriptor](registry.ErrDenied)
}

func (refuseAll) Search(context.Context, string) iter.Seq2[registry.SearchResult, error] {
	return failing[registry.SearchResult](registry.ErrDenied)
}

// failing is a sequence that ends with an error at once.
func failing[T any](err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		yield(zero, err)
	}
}
