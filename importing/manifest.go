package importing

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's manifests, and what layers that may be elsewhere have.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	nondistPrefix  = "application/vnd.oci.image.layer.nondistributable.v1."
)

// manifestDoc is what an importer needs to know of a manifest: what has to come
// before it. What it must be like is for the registry to say.
type manifestDoc struct {
	MediaType string               `json:"mediaType"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
	Blobs     []ocispec.Descriptor `json:"blobs"` // of artifacts of release candidates of OCI 1.1
}

// mediaType is the manifest's media type. OCI's need not name their own, and the
// source does not keep what the client has said (image specification, "Image
// Manifest": mediaType SHOULD be used).
func (m *manifestDoc) mediaType() string {
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case m.Config != nil:
		return ocispec.MediaTypeImageManifest
	}
	return "" // Docker's schema 1, and whatever else there is
}

func (m *manifestDoc) isIndex() bool {
	t := m.mediaType()
	return t == ocispec.MediaTypeImageIndex || t == dockerList
}

// refs is what the manifest needs, but for what may be elsewhere.
func (m *manifestDoc) refs() (all []ocispec.Descriptor) {
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	for _, list := range [][]ocispec.Descriptor{m.Layers, m.Manifests, m.Blobs} {
		for _, d := range list {
			if len(d.URLs) > 0 && (d.MediaType == dockerForeign || strings.HasPrefix(d.MediaType, nondistPrefix)) {
				continue
			}
			all = append(all, d)
		}
	}
	return all
}
