package artifact

import (
	"context"
	_ "crypto/sha256" // the digests' algorithms
	_ "crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berth-registry/berth/runner"
)

// Fetch reads the stack that a tag or a digest names, and says what that names: a
// manifest, or the index of an application whose stack was read. Errors are
// runner.ErrInvalid for what is no stack or beyond the bounds, and
// runner.ErrUnauthorized, runner.ErrForbidden and runner.ErrNotFound where the registry
// says so.
func Fetch(ctx context.Context, source oras.ReadOnlyTarget, ref string) (Bundle, ocispec.Descriptor, error) {
	desc, err := source.Resolve(ctx, ref)
	if err != nil {
		return Bundle{}, desc, classify(err)
	}
	if d := digest.Digest(ref); d.Validate() == nil && d != desc.Digest {
		return Bundle{}, desc, runner.Errorf(runner.ErrInvalid, "the registry has %s where %s was asked for", desc.Digest, d)
	}
	data, err := fetchManifest(ctx, source, desc)
	if err != nil {
		return Bundle{}, desc, err
	}
	if desc.MediaType == ocispec.MediaTypeImageIndex {
		stack, err := stackOf(data)
		if err != nil {
			return Bundle{}, desc, err
		}
		if data, err = fetchManifest(ctx, source, stack); err != nil {
			return Bundle{}, desc, err
		}
	}
	manifest, err := parseManifest(data)
	if err != nil {
		return Bundle{}, desc, err
	}
	b := Bundle{Extends: map[string][]byte{}, EnvFiles: map[string][]byte{}, Annotations: manifest.Annotations}
	for i, layer := range manifest.Layers {
		if layer.MediaType != typeCompose && layer.MediaType != typeEnvFile {
			continue // Compose leaves it alone, too
		}
		data, err := content.FetchAll(ctx, source, layer)
		if err != nil {
			return Bundle{}, desc, classify(err)
		}
		if err := b.add(i, layer, data); err != nil {
			return Bundle{}, desc, err
		}
	}
	return b, desc, b.check()
}

// fetchManifest reads a manifest of a size that is allowed.
func fetchManifest(ctx context.Context, source oras.ReadOnlyTarget, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size < 0 || desc.Size > maxManifest {
		return nil, runner.Errorf(runner.ErrInvalid, "the manifest of the stack has %d bytes: more than the %d allowed", desc.Size, maxManifest)
	}
	data, err := content.FetchAll(ctx, source, desc)
	if err != nil {
		return nil, classify(err)
	}
	return data, nil
}

// stackOf finds the stack of an application that was published with its images: among
// them, or as their subject.
func stackOf(data []byte) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return ocispec.Descriptor{}, runner.Errorf(runner.ErrInvalid, "the index of the stack cannot be read: %w", err)
	}
	if index.Subject != nil {
		index.Manifests = append(index.Manifests, *index.Subject)
	}
	for _, desc := range index.Manifests {
		if desc.ArtifactType == Type && desc.MediaType == ocispec.MediaTypeImageManifest && desc.Digest.Validate() == nil {
			return desc, nil
		}
	}
	return ocispec.Descriptor{}, runner.Errorf(runner.ErrInvalid, "it is no stack: an index without an artifact of type %s", Type)
}

// parseManifest reads the manifest of a stack, and checks all that can be checked
// before its layers are fetched.
func parseManifest(data []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return m, runner.Errorf(runner.ErrInvalid, "the manifest of the stack cannot be read: %w", err)
	}
	kind := m.ArtifactType
	if kind == "" && m.Config.MediaType == typeConfig {
		kind = Type
	}
	if kind != Type {
		return m, runner.Errorf(runner.ErrInvalid, "it is no stack: want an artifact of type %s, found %q", Type, kind)
	}
	if len(m.Layers) > maxLayers {
		return m, runner.Errorf(runner.ErrInvalid, "the stack has %d files: more than the %d allowed", len(m.Layers), maxLayers)
	}
	size := int64(0)
	for _, layer := range m.Layers {
		if err := layer.Digest.Validate(); err != nil {
			return m, runner.Errorf(runner.ErrInvalid, "the stack has a layer of digest %q: %w", layer.Digest, err)
		}
		if layer.Size < 0 || layer.Size > maxContent {
			return m, runner.Errorf(runner.ErrInvalid, "the stack has a layer of %d bytes: more than the %d allowed", layer.Size, maxContent)
		}
		if size += layer.Size; size > maxContent {
			return m, runner.Errorf(runner.ErrInvalid, "the stack has more than the %d bytes allowed", maxContent)
		}
	}
	return m, nil
}

// add puts the content of the layer i into the bundle, as Compose does it: files that
// extend nothing are documents of one file.
func (b *Bundle) add(i int, layer ocispec.Descriptor, data []byte) error {
	files, name := b.Extends, layer.Annotations[annotationFile]
	_, extends := layer.Annotations[annotationExtends]
	switch {
	case layer.MediaType == typeEnvFile:
		files, name = b.EnvFiles, layer.Annotations[annotationEnvFile]
	case !extends:
		if i > 0 && len(b.Compose) > 0 {
			b.Compose = append(b.Compose, "\n---\n"...)
		}
		b.Compose = append(b.Compose, data...)
		return nil
	}
	if _, twice := files[name]; twice {
		return runner.Errorf(runner.ErrInvalid, "the artifact has the file %q twice", name)
	}
	files[name] = data // check looks at the names
	return nil
}

// classify gives errors of the transport the kinds of package runner.
func classify(err error) error {
	status := 0
	if said, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		status = said.StatusCode
	}
	switch {
	case errors.Is(err, errdef.ErrNotFound), status == http.StatusNotFound:
		return runner.Errorf(runner.ErrNotFound, "%w", err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound), status == http.StatusUnauthorized:
		return runner.Errorf(runner.ErrUnauthorized, "%w", err)
	case status == http.StatusForbidden:
		return runner.Errorf(runner.ErrForbidden, "%w", err)
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData), errors.Is(err, digest.ErrDigestInvalidFormat):
		return runner.Errorf(runner.ErrInvalid, "the registry does not send what the digest says: %w", err)
	}
	return fmt.Errorf("registry: %w", err)
}
