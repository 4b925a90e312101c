package registry

import (
	"bytes"
	"encoding/json"
	"errors"
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

// maxAnnotations is how many annotations a manifest may have.
const maxAnnotations = 4096

// manifest is what the registry needs to know of a manifest.
type manifest struct {
	MediaType    string
	ArtifactType string // as a list of referrers shows it
	Config       *ref
	Refs         []ref // what must be present in the repository
	Subject      digest.Digest
	Annotations  map[string]string
	Index        bool
}

// ref is what the registry needs to know of a descriptor.
type ref struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	URLs      someArray     `json:"urls"`
}

// manifestDoc is the union of the manifests' JSON. Its lists check what they
// hold while they are read: a few bytes of JSON must not become a lot of memory.
type manifestDoc struct {
	SchemaVersion int         `json:"schemaVersion"`
	MediaType     string      `json:"mediaType"`
	ArtifactType  string      `json:"artifactType"`
	Config        *ref        `json:"config"`
	Layers        refs        `json:"layers"`
	Manifests     refs        `json:"manifests"`
	Blobs         refs        `json:"blobs"`
	FSLayers      someArray   `json:"fsLayers"` // of Docker's schema 1
	Subject       *ref        `json:"subject"`
	Annotations   annotations `json:"annotations"`
}

// refs is a list of descriptors, all of them valid; nil if there is none.
type refs []ref

func (l *refs) UnmarshalJSON(data []byte) error {
	return eachElement(data, '[', func(dec *json.Decoder) error {
		var r ref
		if err := dec.Decode(&r); err != nil {
			return err
		}
		*l = append(*l, r)
		return r.check()
	}, func() { *l = refs{} })
}

// annotations are not too many.
type annotations map[string]string

func (a *annotations) UnmarshalJSON(data []byte) error {
	return eachElement(data, '{', func(dec *json.Decoder) error {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var value string
		if err := dec.Decode(&value); err != nil {
			return err
		}
		(*a)[key.(string)] = value
		if len(*a) > maxAnnotations {
			return fmt.Errorf("more than %d annotations", maxAnnotations)
		}
		return nil
	}, func() { *a = annotations{} })
}

// eachElement reads the elements of a JSON array or object, until one fails.
// begin is called before the first, unless data is null.
func eachElement(data []byte, open json.Delim, element func(*json.Decoder) error, begin func()) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	t, err := dec.Token()
	if err != nil || t == nil {
		return err
	}
	if t != open {
		return fmt.Errorf("found %.20s, want %s", data, open)
	}
	for begin(); dec.More(); {
		if err := element(dec); err != nil {
			return err
		}
	}
	return nil
}

// someArray says that there is an array; with length, that it is not empty.
type someArray struct{ there, filled bool }

func (s *someArray) UnmarshalJSON(data []byte) error {
	s.there = !bytes.Equal(data, []byte("null"))
	s.filled = s.there && len(bytes.TrimSpace(bytes.Trim(data, "[]"))) > 0
	return nil
}

// parseManifest reads a manifest of a media type that the registry knows, or
// fails with ErrManifestInvalid. mediaType is what the client says; if it is
// empty, the manifest's own field counts.
func parseManifest(data []byte, mediaType string) (manifest, error) {
	var doc manifestDoc
	if err := json.Unmarshal(data, &doc); err != nil {
		if errors.Is(err, ErrManifestInvalid) {
			return manifest{}, err
		}
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
	for _, d := range []*ref{doc.Config, doc.Subject} {
		if d == nil {
			continue
		}
		if err := d.check(); err != nil {
			return manifest{}, err
		}
	}
	if doc.Subject != nil {
		m.Subject = doc.Subject.Digest
	}
	m.Refs = slices.DeleteFunc(m.Refs, ref.elsewhere)
	return m, nil
}

// shape checks that the manifest has the fields of its media type and no fields
// of another, which a client might believe instead, and gathers references.
func (m *manifest) shape(doc *manifestDoc) error {
	switch m.MediaType {
	case ocispec.MediaTypeImageManifest, mediaTypeDockerManifest:
		if doc.Config == nil || doc.Manifests != nil || doc.FSLayers.there {
			return ErrManifestInvalid.With("a manifest of type %s has a config, and neither manifests nor fsLayers", m.MediaType)
		}
		m.Refs = append(append(m.Refs, *doc.Config), doc.Layers...)
		if m.ArtifactType == "" {
			m.ArtifactType = doc.Config.MediaType
		}
	case ocispec.MediaTypeImageIndex, mediaTypeDockerList:
		if doc.Manifests == nil || doc.Layers != nil || doc.FSLayers.there {
			return ErrManifestInvalid.With("a manifest of type %s has manifests, and neither layers nor fsLayers", m.MediaType)
		}
		m.Index = true
		m.Refs = append(m.Refs, doc.Manifests...)
		if doc.Config != nil { // of a build cache in the shape of a list
			m.Refs = append(m.Refs, *doc.Config)
		}
	case mediaTypeArtifact:
		if doc.Manifests != nil || doc.Layers != nil || doc.FSLayers.there {
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

func (r ref) check() error {
	if _, err := ParseDigest(string(r.Digest)); err != nil {
		return ErrManifestInvalid.With("manifest has a descriptor with an invalid digest: %v", err)
	}
	if r.MediaType == "" {
		return ErrManifestInvalid.With("manifest has a descriptor without a media type: %s", r.Digest)
	}
	if r.Size < 0 {
		return ErrManifestInvalid.With("manifest has a descriptor with a negative size: %s", r.Digest)
	}
	return nil
}

// elsewhere says that content need not be in the registry: layers that may not
// be distributed, and say where else they are (image specification,
// "Non-Distributable Layers").
func (r ref) elsewhere() bool {
	return r.URLs.filled && (r.MediaType == mediaTypeDockerForeign || strings.HasPrefix(r.MediaType, mediaTypeNondistPrefix))
}

// description is what a search shows of an image: its annotation, or else the
// label in its config, which readConfig gets if it is needed.
func (m *manifest) description(readConfig func(digest.Digest) ([]byte, error)) (string, error) {
	if s := m.Annotations[ocispec.AnnotationDescription]; s != "" || m.Config == nil {
		return s, nil
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json":
	default:
		return "", nil
	}
	data, err := readConfig(m.Config.Digest)
	if err != nil {
		return "", fmt.Errorf("read config of image: %w", err)
	}
	var config struct {
		Config struct {
			Labels annotations `json:"Labels"`
		} `json:"config"`
	}
	_ = json.Unmarshal(data, &config) // an image may have any config; then it describes nothing
	return config.Config.Labels[ocispec.AnnotationDescription], nil
}
