// Package registry is the OCI registry: its nouns, its errors, its HTTP server,
// and Local, the registry over a store.
//
// The interfaces here are what every layer speaks. Local implements them over
// package storage; remote.Client implements them over HTTP; access control, mirrors
// and audit implement or wrap them. The HTTP server knows only the interfaces.
//
// It knows nothing of accounts or permissions: who may call what is a wrapper's
// business, outside this package.
//
// "Specification" in comments is the OCI distribution specification 1.1.
package registry

import (
	"context"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor says what content is: media type, digest and size in bytes.
type Descriptor = ocispec.Descriptor

// MaxManifest is the greatest size of a manifest in bytes (specification,
// "Pushing Manifests").
const MaxManifest = 4 << 20

// Registry is a registry, whole. Repository names, tags and digests given to
// its methods are valid (see ValidRepository, ParseReference, ParseDigest).
// Errors wrap an *Error of this package, or are failures of the store.
type Registry interface {
	Reader
	Writer
	Uploader
	Deleter
	Lister
}

// Reader reads content of a repository.
type Reader interface {
	// Blob opens a blob. It fails with ErrBlobUnknown if repo has no link to d.
	Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, Descriptor, error)
	// StatBlob describes a blob, or fails with ErrBlobUnknown.
	StatBlob(ctx context.Context, repo string, d digest.Digest) (Descriptor, error)
	// Manifest returns a manifest and its bytes, which the caller must not
	// change. It fails with ErrManifestUnknown.
	Manifest(ctx context.Context, repo string, ref Reference) ([]byte, Descriptor, error)
	// StatManifest describes a manifest, or fails with ErrManifestUnknown.
	StatManifest(ctx context.Context, repo string, ref Reference) (Descriptor, error)
}

// Writer adds content to a repository. When a method returns, what it added is
// durable. Its methods, and those of Uploader that take bytes, fail with ErrQuota
// if the repository may hold no more, and with ErrTooLarge if the content itself
// is too large.
type Writer interface {
	// PushBlob stores the bytes of r as the blob d. It fails with
	// ErrDigestInvalid if they are not d.
	PushBlob(ctx context.Context, repo string, d digest.Digest, r io.Reader) (Descriptor, error)
	// MountBlob makes a blob of the repository from readable in repo; with from
	// empty, a blob of any repository. It fails with ErrBlobUnknown.
	MountBlob(ctx context.Context, repo, from string, d digest.Digest) (Descriptor, error)
	// PushManifest stores a manifest and points tags at it. m.Digest must be of
	// m.Data (ErrDigestInvalid), m.Data a manifest (ErrManifestInvalid), and all
	// that it references in repo already (ErrManifestBlobUnknown).
	PushManifest(ctx context.Context, repo string, m ManifestPush) (ManifestPushed, error)
}

// ManifestPush is a manifest to be stored.
type ManifestPush struct {
	Data      []byte
	MediaType string        // what the client says it is; empty means whatever Data says
	Digest    digest.Digest // of Data
	Tags      []string      // to point at it
	// Sparse says that what it references may be absent: the repository is a cache of
	// another registry, which has it.
	Sparse bool
}

// ManifestPushed says what was stored.
type ManifestPushed struct {
	Descriptor Descriptor
	Subject    digest.Digest // that it refers to, if any
}

// Admitter is a Registry that can say beforehand that it would refuse a manifest. A
// Server asks it before it reads one, which needs memory that others may want.
type Admitter interface {
	// AdmitManifest fails as PushManifest would fail whatever m.Data are, which are
	// not known yet; nor is m.Digest, if the client did not say it.
	AdmitManifest(ctx context.Context, repo string, m ManifestPush) error
}

// Uploader takes a blob in pieces. A session is known by its id within its
// repository. Sessions survive a restart; one that nobody writes to for a time
// that the registry sets is forgotten. Methods fail with ErrUploadUnknown for a
// session that is not there. A second writer of a session takes it over from
// the first, whose connection may have died without a sign.
type Uploader interface {
	// StartUpload begins a session for a blob with a digest of the algorithm alg,
	// and returns its id.
	StartUpload(ctx context.Context, repo string, alg digest.Algorithm) (string, error)
	// UploadSize returns how many bytes the session holds durably.
	UploadSize(ctx context.Context, repo, id string) (int64, error)
	// WriteUpload appends r and returns how many bytes the session then holds.
	// chunk says where the bytes belong: ErrRangeInvalid if they do not start
	// where the session ends, ErrSizeInvalid if r is not as long as it says. What
	// was received before r failed is kept.
	WriteUpload(ctx context.Context, repo, id string, chunk Chunk, r io.Reader) (int64, error)
	// CommitUpload appends r as WriteUpload does and makes all the session's
	// bytes the blob d, or fails with ErrDigestInvalid, which ends the session.
	// Committing a session again to the same digest succeeds.
	CommitUpload(ctx context.Context, repo, id string, chunk Chunk, r io.Reader, d digest.Digest) (Descriptor, error)
	// CancelUpload ends a session and drops its bytes.
	CancelUpload(ctx context.Context, repo, id string) error
}

// Chunk is where a piece of an upload belongs: bytes First to Last, both
// included. The zero Chunk means that the client did not say.
type Chunk struct {
	First, Last int64
	Known       bool
}

// Deleter removes content from a repository. What was deleted is gone from
// every later answer; its bytes may be kept.
type Deleter interface {
	// DeleteBlob removes a blob, or fails with ErrBlobUnknown, or with
	// ErrReferenced if a manifest of repo needs it.
	DeleteBlob(ctx context.Context, repo string, d digest.Digest) error
	// DeleteManifest removes a manifest and the tags that point to it, or fails
	// with ErrManifestUnknown, or with ErrReferenced if an index of repo needs
	// it.
	DeleteManifest(ctx context.Context, repo string, d digest.Digest) error
	// DeleteTag removes a tag, or fails with ErrManifestUnknown.
	DeleteTag(ctx context.Context, repo, tag string) error
}

// Lister lists. Each sequence starts after the name or digest given ("" for the
// first), is in byte order, and ends with the first error; the caller stops it
// when it has enough. It is a snapshot: what changes meanwhile does not show.
type Lister interface {
	// Repositories lists the repositories that have a manifest.
	Repositories(ctx context.Context, after string) iter.Seq2[string, error]
	// Tags lists the tags of repo, or fails with ErrNameUnknown.
	Tags(ctx context.Context, repo, after string) iter.Seq2[string, error]
	// Referrers lists the manifests of repo whose subject is d and whose artifact
	// type is artifactType, if that is not empty. The subject need not exist.
	Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string, after digest.Digest) iter.Seq2[Descriptor, error]
	// Search lists repositories with term in their name, in no order.
	Search(ctx context.Context, term string) iter.Seq2[SearchResult, error]
}

// SearchResult is a repository that a search found.
type SearchResult struct {
	Name        string
	Description string
}
