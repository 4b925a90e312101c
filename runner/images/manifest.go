package images

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

const (
	dockerManifest   = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex      = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig     = "application/vnd.docker.container.image.v1+json"
	dockerLayerGzip  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd  = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerLayer      = "application/vnd.docker.image.rootfs.diff.tar"
	dockerSchema1    = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Sig = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// What an index may be: deeper or larger ones are made to keep hosts busy.
const (
	maxIndexDepth   = 3
	maxIndexes      = 16 // in all, for one image
	maxIndexEntries = 5000
)

// describe reads the documents of the image for want that root names.
func (s *Store) describe(ctx context.Context, f Fetcher, ref reference.Named, root ocispec.Descriptor, want *ocispec.Platform) (*newImage, error) {
	c := chooser{ctx: ctx, s: s, f: f, ref: ref.String(), want: want}
	img, err := c.manifest(root, 0)
	if err != nil {
		return nil, err
	}
	if img.configRaw, err = s.document(ctx, f, c.ref, img.manifest.Config); err != nil {
		return nil, err
	}
	if err := img.parse(); err != nil {
		return nil, err
	}
	if p := platformOf(img.config.Platform); want != nil && !platforms.Only(*want).Match(p) {
		return nil, runner.Errorf(runner.ErrNotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
			s.Familiar(ref), platforms.FormatAll(p), platforms.FormatAll(*want))
	}
	return img, nil
}

// chooser finds one image in what may be an index.
type chooser struct {
	ctx  context.Context //nolint:containedctx // it lives for one call
	s    *Store
	f    Fetcher
	ref  string
	want *ocispec.Platform // nil: this host's
	seen []string          // digests of the indexes so far
}

// document is what manifests and indexes have between them.
type document struct {
	MediaType string          `json:"mediaType"`
	Manifests json.RawMessage `json:"manifests"`
	Layers    json.RawMessage `json:"layers"`
	Config    json.RawMessage `json:"config"`
	FSLayers  json.RawMessage `json:"fsLayers"`
}

func (c *chooser) manifest(desc ocispec.Descriptor, depth int) (*newImage, error) {
	if desc.MediaType == dockerSchema1 || desc.MediaType == dockerSchema1Sig {
		return nil, errSchema1()
	}
	raw, err := c.s.document(c.ctx, c.f, c.ref, desc)
	if err != nil {
		return nil, err
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid manifest %s: %w", desc.Digest, err)
	}
	if doc.MediaType == "" {
		doc.MediaType = desc.MediaType
	}
	isIndex, isManifest := doc.Manifests != nil, doc.Layers != nil || doc.Config != nil
	switch {
	case doc.FSLayers != nil:
		return nil, errSchema1()
	case isIndex && isManifest:
		return nil, runner.Errorf(runner.ErrInvalid, "manifest %s is an index and an image at the same time", desc.Digest)
	case isIndex && slices.Contains([]string{ocispec.MediaTypeImageIndex, dockerIndex, ""}, doc.MediaType):
		return c.index(raw, desc, depth)
	case isManifest && slices.Contains([]string{ocispec.MediaTypeImageManifest, dockerManifest, ""}, doc.MediaType):
		return imageOf(raw, desc)
	}
	return nil, runner.Errorf(runner.ErrInvalid, "unsupported media type %s of manifest %s", doc.MediaType, desc.Digest)
}

func errSchema1() error {
	return runner.Errorf(runner.ErrInvalid, "Docker Image Format v1 and Docker Image manifest version 2, schema 1 are not supported: push the image again with a current client")
}

// imageOf reads the manifest of an image.
func imageOf(raw []byte, desc ocispec.Descriptor) (*newImage, error) {
	img := &newImage{desc: desc, manifestRaw: raw}
	if err := json.Unmarshal(raw, &img.manifest); err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid manifest %s: %w", desc.Digest, err)
	}
	img.desc = ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: int64(len(raw))}
	if img.manifest.MediaType != "" {
		img.desc.MediaType = img.manifest.MediaType
	}
	if t := img.manifest.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		return nil, runner.Errorf(runner.ErrInvalid, "unsupported media type %s of the image's configuration: it is no image that runs", t)
	}
	for _, l := range img.manifest.Layers {
		if l.Size < 0 {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid manifest %s: a layer of %d bytes", desc.Digest, l.Size)
		}
	}
	return img, nil
}

// index takes the image of an index that runs best.
func (c *chooser) index(raw []byte, desc ocispec.Descriptor, depth int) (*newImage, error) {
	if slices.Contains(c.seen, desc.Digest.String()) {
		return nil, runner.Errorf(runner.ErrInvalid, "index %s contains itself", desc.Digest)
	}
	c.seen = append(c.seen, desc.Digest.String())
	if depth >= maxIndexDepth || len(c.seen) > maxIndexes {
		return nil, runner.Errorf(runner.ErrInvalid, "indexes are nested too deep, or there are too many: at most %d deep and %d in all are allowed", maxIndexDepth, maxIndexes)
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid index %s: %w", desc.Digest, err)
	}
	if len(index.Manifests) > maxIndexEntries {
		return nil, runner.Errorf(runner.ErrInvalid, "index %s has %d manifests; at most %d are allowed", desc.Digest, len(index.Manifests), maxIndexEntries)
	}
	for _, d := range c.candidates(index.Manifests) {
		img, err := c.manifest(d, depth+1)
		if err == nil || !isNoMatch(err) {
			return img, err
		}
	}
	want := platforms.DefaultSpec()
	if c.want != nil {
		want = *c.want
	}
	return nil, &noMatchError{platforms.FormatAll(want)}
}

// candidates are the manifests that may run here, the best first, and then
// indexes that do not say what they are for.
func (c *chooser) candidates(all []ocispec.Descriptor) []ocispec.Descriptor {
	match := platforms.Default()
	if c.want != nil {
		match = platforms.Only(*c.want)
	}
	var exact, unsaid []ocispec.Descriptor
	for _, d := range all {
		switch nested := d.MediaType == ocispec.MediaTypeImageIndex || d.MediaType == dockerIndex; {
		case d.Platform != nil && match.Match(*d.Platform):
			exact = append(exact, d)
		case d.Platform == nil && nested, d.Platform == nil && len(all) == 1:
			unsaid = append(unsaid, d)
		}
	}
	slices.SortStableFunc(exact, func(a, b ocispec.Descriptor) int {
		switch {
		case match.Less(*a.Platform, *b.Platform):
			return -1
		case match.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	return append(exact, unsaid...)
}

// noMatchError says that an index has no image for a platform.
type noMatchError struct{ platform string }

func (e *noMatchError) Error() string {
	return "no matching manifest for " + e.platform + " in the manifest list entries"
}
func (e *noMatchError) Unwrap() error { return runner.ErrNotFound }

func isNoMatch(err error) bool {
	_, ok := err.(*noMatchError) //nolint:errorlint // only of this very index
	return ok
}

func parsePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // none was asked for
	}
	var p ocispec.Platform
	var err error
	if strings.HasPrefix(s, "{") {
		err = json.Unmarshal([]byte(s), &p)
		p = platforms.Normalize(p)
	} else {
		p, err = platforms.Parse(s)
	}
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid platform %q: %w", s, err)
	}
	if p.OS != "linux" {
		return nil, runner.Errorf(runner.ErrInvalid, "image operating system %q cannot be used on this platform", p.OS)
	}
	return &p, nil
}

func platformOf(p ocispec.Platform) ocispec.Platform {
	if p.OS == "" {
		p.OS = "linux"
	}
	return platforms.Normalize(p)
}
