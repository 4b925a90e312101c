package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/berth-registry/berth/runner"
)

// Push stores a bundle and moves a tag to it; with an empty tag it is there by its
// digest alone. Errors are runner.ErrInvalid for a bundle beyond the bounds, and
// runner.ErrUnauthorized, runner.ErrForbidden and runner.ErrNotFound where the registry
// says so.
func Push(ctx context.Context, target oras.Target, tag string, b Bundle) (ocispec.Descriptor, error) {
	manifest, blobs, err := pack(b)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, blob := range blobs {
		if err := pushBlob(ctx, target, blob); err != nil {
			return ocispec.Descriptor{}, classify(err)
		}
	}
	desc := content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, manifest)
	desc.ArtifactType = Type
	if tag == "" {
		tag = desc.Digest.String()
	}
	if _, err := oras.TagBytes(ctx, target, ocispec.MediaTypeImageManifest, manifest, tag); err != nil {
		return ocispec.Descriptor{}, classify(err)
	}
	return desc, nil
}

// Describe returns what Push would make of a bundle.
func Describe(b Bundle) (ocispec.Descriptor, error) {
	manifest, _, err := pack(b)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, manifest), nil
}

// blob is a part of an artifact beside its manifest.
type blob struct {
	desc ocispec.Descriptor
	data []byte
}

func newBlob(mediaType string, data []byte, annotations map[string]string) blob {
	desc := content.NewDescriptorFromBytes(mediaType, data)
	desc.Annotations = annotations
	return blob{desc, data}
}

// pack makes the manifest of a bundle. It has no time in it: the same stack, published
// again, moves nothing.
func pack(b Bundle) (manifest []byte, blobs []blob, err error) {
	if err := b.check(); err != nil {
		return nil, nil, err
	}
	blobs = []blob{newBlob(typeCompose, b.Compose, map[string]string{annotationFile: composeFile})}
	for _, name := range slices.Sorted(maps.Keys(b.Extends)) {
		blobs = append(blobs, newBlob(typeCompose, b.Extends[name], map[string]string{annotationFile: name, annotationExtends: "true"}))
	}
	for _, name := range slices.Sorted(maps.Keys(b.EnvFiles)) {
		blobs = append(blobs, newBlob(typeEnvFile, b.EnvFiles[name], map[string]string{annotationEnvFile: name}))
	}
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: Type,
		Config:       ocispec.DescriptorEmptyJSON,
		Annotations:  b.Annotations,
	}
	for _, blob := range blobs {
		m.Layers = append(m.Layers, blob.desc)
	}
	if manifest, err = json.Marshal(m); err != nil {
		return nil, nil, err
	}
	if len(manifest) > maxManifest {
		return nil, nil, runner.Errorf(runner.ErrInvalid, "the manifest of the stack has %d bytes: more than the %d allowed", len(manifest), maxManifest)
	}
	return manifest, append(blobs, newBlob(ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data, nil)), nil
}

// pushBlob stores what is not there yet.
func pushBlob(ctx context.Context, target oras.Target, b blob) error {
	there, err := target.Exists(ctx, b.desc)
	if err == nil && !there {
		err = target.Push(ctx, b.desc, bytes.NewReader(b.data))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.desc.Digest, err)
	}
	return nil
}
