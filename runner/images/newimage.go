package images

import (
	"encoding/json"
	"slices"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// newImage is an image on its way into the store.
type newImage struct {
	desc        ocispec.Descriptor // of the manifest
	manifestRaw []byte
	manifest    ocispec.Manifest
	configRaw   []byte
	config      dockerspec.DockerOCIImage

	names  []reference.Named // to be given
	source string            // repository, as host/path, that has the blobs
	root   digest.Digest     // that the repository has for the name: of an index, or the manifest's
	// layers are those that had to be ingested, nil where the store has them.
	layers []*unpacked
}

func (img *newImage) id() string { return digest.FromBytes(img.configRaw).String() }

// chainIDs name each layer together with all below it.
func (img *newImage) chainIDs() []digest.Digest {
	return identity.ChainIDs(slices.Clone(img.config.RootFS.DiffIDs))
}

// blobs are the digests of all that the image is of.
func (img *newImage) blobs() []digest.Digest {
	list := []digest.Digest{img.desc.Digest, digest.Digest(img.id())}
	for _, l := range img.manifest.Layers {
		list = append(list, l.Digest)
	}
	return list
}

// pins are the keys of all that the image needs.
func (img *newImage) pins() []string {
	var keys []string
	for _, d := range img.blobs() {
		keys = append(keys, d.String())
	}
	for i, chain := range img.chainIDs() {
		keys = append(keys, layerPin(diffKey(img.config.RootFS.DiffIDs[i])), layerPin(chainKey(chain)))
	}
	return keys
}

// parse reads the configuration and compares it with the manifest.
func (img *newImage) parse() error {
	if err := json.Unmarshal(img.configRaw, &img.config); err != nil {
		return runner.Errorf(runner.ErrInvalid, "invalid image configuration: %w", err)
	}
	diffIDs := img.config.RootFS.DiffIDs
	if img.config.RootFS.Type != "layers" || len(diffIDs) != len(img.manifest.Layers) {
		return runner.Errorf(runner.ErrInvalid, "invalid rootfs in image configuration: %d layers, where the manifest has %d", len(diffIDs), len(img.manifest.Layers))
	}
	if len(diffIDs) > maxLayers {
		return runner.Errorf(runner.ErrInvalid, "the image has %d layers; at most %d are allowed", len(diffIDs), maxLayers)
	}
	for i, d := range diffIDs {
		if err := firstError(checkDigest(d), checkDigest(img.manifest.Layers[i].Digest)); err != nil {
			return err
		}
	}
	if img.config.OS != "" && img.config.OS != "linux" {
		return runner.Errorf(runner.ErrInvalid, "image operating system %q cannot be used on this platform", img.config.OS)
	}
	return nil
}

// maxLayers is what a kernel mounts with the directory of the container on top.
const maxLayers = 127

// makeManifest makes the manifest of an image that has none, in docker's form.
func (img *newImage) makeManifest() error {
	img.manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	img.manifest.MediaType = dockerManifest
	img.manifest.Config = ocispec.Descriptor{MediaType: dockerConfig, Digest: digest.Digest(img.id()), Size: int64(len(img.configRaw))}
	var err error
	if img.manifestRaw, err = json.Marshal(img.manifest); err != nil {
		return err
	}
	img.desc = ocispec.Descriptor{MediaType: dockerManifest, Digest: digest.FromBytes(img.manifestRaw), Size: int64(len(img.manifestRaw))}
	return nil
}
