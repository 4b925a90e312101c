// Package importing takes over what another registry has stored on this machine: the
// data directory of the CNCF distribution registry, or an OCI image layout.
//
// It promises that what it takes over keeps its digests and tags; that each byte of
// it is checked against its digest on the way; that what is damaged, missing or not
// understood in the source is reported and left out, with whatever needs it, and
// nothing else is; and that the source is only read. To do it again, or after it was
// interrupted, does what is left to do. A file that is linked is one file from then
// on, under two names: the source may be removed, but nobody may write to it.
//
// It does not know accounts, upload sessions or anything else but repositories, tags,
// manifests and the blobs that they need. The source should not change meanwhile:
// what is pushed to it while it is read may be left out.
package importing

import (
	"context"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// Destination is where it goes; a registry.Local is one.
type Destination interface {
	StatBlob(ctx context.Context, repo string, d digest.Digest) (registry.Descriptor, error)
	StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error)
	MountBlob(ctx context.Context, repo, from string, d digest.Digest) (registry.Descriptor, error)
	PushManifest(ctx context.Context, repo string, m registry.ManifestPush) (registry.ManifestPushed, error)
	// PushFile takes over a file, after it has checked that it is d; linked says
	// whether it was not copied.
	PushFile(ctx context.Context, repo string, d digest.Digest, f *os.File) (desc registry.Descriptor, linked bool, err error)
}

// Options are what Import can be told.
type Options struct {
	// Repo is the repository that an OCI layout goes to, which names none itself.
	Repo string
	// Progress, if set, is told of what was done so far, again and again.
	Progress func(Report)
	// Skipped, if set, is told of each thing that is left out, at once.
	Skipped func(Problem)
}

// Report is what was done.
type Report struct {
	Repos     int   `json:"repositories"`
	Manifests Count `json:"manifests"`
	Tags      Count `json:"tags"`
	Blobs     Count `json:"blobs"`
	Linked    int   `json:"linked"` // blobs that were not copied
	Bytes     int64 `json:"bytes"`  // of blobs that are new
	Skipped   int   `json:"skipped"`
}

// Count is how many are new, and how many were there.
type Count struct {
	New     int `json:"new"`
	Present int `json:"present"`
}

// Problem is something that was left out.
type Problem struct {
	Repo   string `json:"repository,omitempty"`
	What   string `json:"what"` // a tag, a digest or a path in the source
	Reason string `json:"reason"`
}

// Import takes over what is at path: the directory of a registry, or one that it has
// its docker/registry/v2 in, or an OCI layout. What is left out is no error.
func Import(ctx context.Context, path string, dst Destination, o Options) (Report, error) {
	src, err := openSource(path, o.Repo)
	if err != nil {
		return Report{}, err
	}
	im := &importer{src: src, dst: dst, options: o}
	err = src.repositories(ctx, im.skip, func(r *repository) error { return im.repo(ctx, r) })
	return im.report, err
}
