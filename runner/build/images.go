package build

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Images is the store of images on this host.
type Images interface {
	// Image returns the image of a name or an ID. It fails with runner.ErrNotFound.
	Image(ctx context.Context, ref string) (Image, error)
	// LinkBlob makes a file another name of a blob, and says whether there is one.
	LinkBlob(d digest.Digest, path string) (bool, error)
	// ShareTree finds the tree of a layer that lies on those of below, the topmost
	// first, and keeps it until Unshare; it is empty if there is none.
	ShareTree(diffID digest.Digest, below []string) string
	Unshare(dir string)
	// Add makes an image that was built one of the store, and returns its ID. Each
	// tree that it takes becomes a link to one that is shared.
	Add(ctx context.Context, b Built) (string, error)
}

// Image is what an image of the store consists of.
type Image struct {
	ID       string
	Manifest digest.Digest
	// Roots are the digests by which the registry of its name knows it.
	Roots    []digest.Digest
	Config   []byte
	Platform ocispec.Platform
	DiffIDs  []digest.Digest
	Layers   []ocispec.Descriptor // from the lowest up
}

// Built is an image that was built.
type Built struct {
	Config []byte
	Layers []Layer // from the lowest up
	Names  []string
}

// Layer is a layer of an image that was built.
type Layer struct {
	Blob   ocispec.Descriptor
	DiffID digest.Digest
	File   string // has the blob
	Tree   string // directory in overlayfs's form to be taken, or empty
}
