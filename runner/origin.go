package runner

import "github.com/opencontainers/go-digest"

// Origin is a place at a registry that an image's content was pulled from, or pushed
// to. What users name an image does not change it.
type Origin struct {
	// Repository is its full name with the host of the registry, such as
	// registry.example.com/prod/app; Docker Hub's is docker.io.
	Repository string `json:"repository"`
	// Root is the digest of the manifest or index that the registry gave for the name
	// that was pulled, and Manifest that of the image's own manifest: the same unless
	// Root is an index.
	Root     digest.Digest `json:"root"`
	Manifest digest.Digest `json:"manifest"`
}

// Provenance is where the content of an image on this host came from.
type Provenance struct {
	Origins []Origin // the oldest first
	// Local says that it was made here: built, committed, imported or loaded. An image
	// may be both.
	Local bool
}
