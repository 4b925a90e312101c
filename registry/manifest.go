package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of manifests that are not the OCI image specification's.
const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	mediaTypeArtifact       = "application/vnd.oci.artifact.manifest.v1+json" // of release candidates of OCI 1.1
	mediaTypeDockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	mediaTypeNondistPrefix  = "application/vnd.oci.image.layer.nondistributable.v1."
)

// manifest is what the registry needs to know of a manifest.
type manifest struct {
	MediaType    string
	ArtifactType string // as a list of referrers shows it
	Config       *Descriptor
	Refs         []Descriptor // what must be present in the repository
	Subject      digest.Digest
	Annotations  map[string]string
	Index        bool
}

// manifestDoc is the union of the manifests' JSON.
type manifestDoc struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Manifests     []Descriptor      `json:"manifests"`
	Blobs         []Descriptor      `json:"blobs"`
	FSLayers      json.RawMessage   `json:"fsLayers"` // of Docker's schema 1
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// parseManifest reads a manifest of a media type that the registry knows, or
// fails with ErrManifestInvalid. mediaType is what the client says; if it is
// empty, the manifest's own field counts.
func parseManifest(data []byte, mediaType string) (manifest, error) {
	var doc manifestDoc
	if err := json.Unmarshal(data, &doc); err != nil {
		return manifest{}, ErrManifestInvalid.With("manifest is not valid JSON: %v", clip(err.Error()))
	}
	mediaType, _, _ = strings.Cut(mediaType, ";")
	mediaType = strings.TrimSpace(mediaType)
	if mediaType == "" || mediaType == "application/json" {
		mediaType = doc.MediaType
	}
	if doc.MediaType != "" && doc.MediaType != mediaType {
		return manifest{}, ErrManifestInvalid.With("manifest says that its media type is %q, the request %q", clip(doc.MediaType), clip(mediaType))
	}
	m := manifest{MediaType: mediaType, Config: doc.Config, ArtifactType: doc.ArtifactType, Annotations: doc.Annotations}
	if err := m.shape(&doc); err != nil {
		return manifest{}, err
	}
	for _, d := range m.Refs {
		if err := checkDescriptor(d); err != nil {
			return manifest{}, err
		}
	}
	if doc.Subject != nil {
		if err := checkDescriptor(*doc.Subject); err != nil {
			return manifest{}, err
		}
		m.Subject = doc.Subject.Digest
	}
	m.Refs = slices.DeleteFunc(m.Refs, elsewhere)
	return m, nil
}

// shape checks that the manifest has the fields of its media type and no fields
// of another, which a client might believe instead, and gathers references.
func (m *manifest) shape(doc *manifestDoc) error {
	switch m.MediaType {
	case ocispec.MediaTypeImageManifest, mediaTypeDockerManifest:
		if doc.Config == nil || doc.Manifests != nil || doc.FSLayers != nil {
			return ErrManifestInvalid.With("a manifest of type %s has a config, and neither manifests nor fsLayers", m.MediaType)
		}
		m.Refs = append(append(m.Refs, *doc.Config), doc.Layers...)
		if m.ArtifactType == "" {
			m.ArtifactType = doc.Config.MediaType
		}
	case ocispec.MediaTypeImageIndex, mediaTypeDockerList:
		if doc.Manifests == nil || doc.Layers != nil || doc.FSLayers != nil {
			return ErrManifestInvalid.With("a manifest of type %s has manifests, and neither layers nor fsLayers", m.MediaType)
		}
		m.Index = true
		m.Refs = append(m.Refs, doc.Manifests...)
		if doc.Config != nil { // of a build cache in the shape of a list
			m.Refs = append(m.Refs, *doc.Config)
		}
	case mediaTypeArtifact:
		if doc.Manifests != nil || doc.Layers != nil || doc.FSLayers != nil {
			return ErrManifestInvalid.With("a manifest of type %s has none of manifests, layers and fsLayers", m.MediaType)
		}
		m.Refs = append(m.Refs, doc.Blobs...)
		return nil // it has no schemaVersion
	case "":
		return ErrManifestInvalid.With("manifest has no media type, neither in its mediaType nor in the request's Content-Type")
	default:
		return ErrManifestInvalid.With("manifest media type %q is not supported: want an OCI image manifest or index, or a Docker schema 2 manifest or list", clip(m.MediaType))
	}
	if doc.SchemaVersion != 2 {
		return ErrManifestInvalid.With("manifest has schemaVersion %d: want 2", doc.SchemaVersion)
	}
	return nil
}

func checkDescriptor(d Descriptor) error {
	if _, err := ParseDigest(string(d.Digest)); err != nil {
		return ErrManifestInvalid.With("manifest has a descriptor with an invalid digest: %v", err)
	}
	if d.MediaType == "" {
		return ErrManifestInvalid.With("manifest has a descriptor without a media type: %s", d.Digest)
	}
	if d.Size < 0 {
		return ErrManifestInvalid.With("manifest has a descriptor with a negative size: %s", d.Digest)
	}
	return nil
}

// elsewhere says that content need not be in the registry: layers that may not
// be distributed, and say where else they are (image specification,
// "Non-Distributable Layers").
func elsewhere(d Descriptor) bool {
	return len(d.URLs) > 0 && (d.MediaType == mediaTypeDockerForeign || strings.HasPrefix(d.MediaType, mediaTypeNondistPrefix))
}

// description is what a search shows of an image: its annotation, or else the
// label in its config, which readConfig gets if it is needed.
func (m *manifest) description(readConfig func(Descriptor) ([]byte, error)) (string, error) {
	if s := m.Annotations[ocispec.AnnotationDescription]; s != "" || m.Config == nil {
		return s, nil
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return "", nil
	}
	data, err := readConfig(*m.Config)
	if err != nil {
		return "", fmt.Errorf("read config of image: %w", err)
	}
	var config struct {
		Config struct {
			Labels map[string]string `json:"Labels"`
		} `json:"config"`
	}
	if json.Unmarshal(data, &config) != nil {
		return "", nil // an image may have any config; this one describes nothing
	}
	return config.Config.Labels[ocispec.AnnotationDescription], nil
}
