package copying

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// Limits of a graph. No honest one comes near them.
const (
	maxDepth     = 16       // of indexes in indexes, and referrers of referrers
	maxManifests = 10_000   // in all
	maxBlobs     = 100_000  // in all
	keepBytes    = 32 << 20 // of manifests in memory; beyond, they are read again
)

// node is a manifest of the graph.
type node struct {
	desc    registry.Descriptor
	data    []byte // nil if it is not kept
	height  int    // above the highest that must be pushed before it; -1 while that is unknown
	present bool   // in the target
	sparse  bool   // some of what it references is left out
}

// root walks the graph from the manifest that was asked for. One that is named by
// its digest, and is in the target, need not be read from the source.
func (c *copier) root(ctx context.Context) (*node, error) {
	if r, ok := c.dst.Registry.(registry.Reader); ok && c.src.Ref.Tag == "" {
		data, desc, err := r.Manifest(ctx, c.dst.Repo, c.src.Ref)
		if err == nil {
			return c.walk(ctx, desc, data, 0)
		}
		if !errors.Is(err, registry.ErrManifestUnknown) {
			return nil, fmt.Errorf("read %s: %w", c.src.Ref, err)
		}
	}
	data, desc, err := c.src.Registry.Manifest(ctx, c.src.Repo, c.src.Ref)
	if err != nil {
		return nil, ofSource(fmt.Errorf("read %s: %w", c.src.Ref, err))
	}
	return c.walk(ctx, desc, data, 0)
}

// walk visits a manifest and all below it. data is nil if it was not read yet.
func (c *copier) walk(ctx context.Context, desc registry.Descriptor, data []byte, depth int) (*node, error) {
	if n, ok := c.nodes[desc.Digest]; ok {
		if n.height < 0 {
			return nil, registry.ErrManifestInvalid.With("manifest %s references itself", desc.Digest)
		}
		return n, nil
	}
	switch {
	case depth > maxDepth:
		return nil, registry.ErrManifestInvalid.With("manifests are nested more than %d deep", maxDepth)
	case len(c.nodes) == maxManifests:
		return nil, registry.ErrManifestInvalid.With("more than %d manifests in one graph", maxManifests)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	n := &node{desc: desc, height: -1}
	c.nodes[desc.Digest] = n
	if err := c.stat(ctx, n); err != nil {
		return nil, err
	}
	if n.present && !c.o.Referrers && !c.o.Sparse {
		n.height, n.data = 0, data
		return n, nil
	}
	if err := c.read(ctx, n, data); err != nil {
		return nil, err
	}
	return n, c.descend(ctx, n, depth)
}

// stat asks whether the target has the manifest, and so all below it.
func (c *copier) stat(ctx context.Context, n *node) error {
	_, err := c.dst.Registry.StatManifest(ctx, c.dst.Repo, registry.Reference{Digest: n.desc.Digest})
	if errors.Is(err, registry.ErrManifestUnknown) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask the target for manifest %s: %w", n.desc.Digest, err)
	}
	n.present = true
	c.tell(Event{Descriptor: n.desc, Manifest: true, State: Present})
	return nil
}

// read reads the manifest. What a descriptor says of it must be true.
func (c *copier) read(ctx context.Context, n *node, data []byte) error {
	n.data = data
	if data == nil {
		var desc registry.Descriptor
		var err error
		if n.data, desc, err = c.manifest(ctx, n); err != nil {
			return err
		}
		n.desc.MediaType = desc.MediaType
	}
	if n.desc.Size != int64(len(n.data)) {
		return registry.ErrManifestInvalid.With("manifest %s has %d bytes, not the %d that its descriptor says", n.desc.Digest, len(n.data), n.desc.Size)
	}
	return nil
}

// manifest reads a manifest: of the target, if it is there and can be read there.
func (c *copier) manifest(ctx context.Context, n *node) ([]byte, registry.Descriptor, error) {
	ref := registry.Reference{Digest: n.desc.Digest}
	if r, ok := c.dst.Registry.(registry.Reader); ok && n.present {
		data, desc, err := r.Manifest(ctx, c.dst.Repo, ref)
		if err != nil {
			err = fmt.Errorf("read manifest %s: %w", n.desc.Digest, err)
		}
		return data, desc, err
	}
	data, desc, err := c.src.Registry.Manifest(ctx, c.src.Repo, ref)
	if err != nil {
		err = ofSource(fmt.Errorf("read manifest %s: %w", n.desc.Digest, err))
	}
	return data, desc, err
}

// descend visits what the manifest references, and then what refers to it.
func (c *copier) descend(ctx context.Context, n *node, depth int) error {
	doc, err := parse(n.data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", n.desc.Digest, err)
	}
	if c.kept += len(n.data); c.kept > keepBytes {
		n.data = nil
	}
	height, err := c.visit(ctx, n, doc, depth)
	if err != nil {
		return err
	}
	if doc.Subject != nil {
		if s := c.nodes[doc.Subject.Digest]; s != nil {
			height = max(height, s.height+1)
		}
	}
	n.height = height
	if !c.o.Referrers {
		return nil
	}
	return c.referrers(ctx, n, depth)
}

// visit visits what the manifest references, and returns its height.
func (c *copier) visit(ctx context.Context, n *node, doc document, depth int) (int, error) {
	height := 0
	references, left := doc.kept(c.o.Platforms)
	if n.sparse = left; left && depth == 0 && !slices.ContainsFunc(references, hasPlatform) {
		return 0, registry.ErrManifestUnknown.With("%s has none of the platforms %s", n.desc.Digest, platformList(c.o.Platforms))
	}
	for _, d := range references {
		manifest, err := c.isManifest(ctx, d, doc)
		if err != nil {
			return 0, err
		}
		switch {
		case manifest:
			child, err := c.walk(ctx, registry.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, nil, depth+1)
			if err != nil {
				return 0, err
			}
			height = max(height, child.height+1)
		case len(c.blobs) == maxBlobs:
			return 0, registry.ErrManifestInvalid.With("more than %d blobs in one graph", maxBlobs)
		case (!n.present || c.o.Sparse) && !foreign(d):
			c.addBlob(ctx, d)
		}
	}
	return height, nil
}

// isManifest says whether d, of an index, is a manifest: it may be a blob, in
// the index of a build cache, and of types that nobody knows only the source
// knows which.
func (c *copier) isManifest(ctx context.Context, d registry.Descriptor, doc document) (bool, error) {
	switch {
	case doc.Manifests == nil || doc.Config != nil && doc.Config.Digest == d.Digest:
		return false, nil
	case manifestTypes[d.MediaType]:
		return true, nil
	case c.blobs[d.Digest]:
		return false, nil
	}
	_, err := c.src.Registry.StatBlob(ctx, c.src.Repo, d.Digest)
	if errors.Is(err, registry.ErrBlobUnknown) {
		return true, nil
	}
	return false, ofSource(err)
}

// referrers visits what refers to a manifest.
func (c *copier) referrers(ctx context.Context, n *node, depth int) error {
	var found []registry.Descriptor // not to walk while the list is open
	for d, err := range c.src.Registry.Referrers(ctx, c.src.Repo, n.desc.Digest, "", "") {
		if err != nil {
			return ofSource(fmt.Errorf("list referrers of %s: %w", n.desc.Digest, err))
		}
		if len(found) == maxManifests {
			return registry.ErrManifestInvalid.With("more than %d manifests refer to %s", maxManifests, n.desc.Digest)
		}
		found = append(found, registry.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	}
	for _, d := range found {
		if err := check(d); err != nil {
			return err
		}
		if r := c.nodes[d.Digest]; r != nil && r.height < 0 {
			continue // n is below it, and its walk goes on
		}
		if _, err := c.walk(ctx, d, nil, depth+1); err != nil {
			return err
		}
	}
	return nil
}

var manifestTypes = map[string]bool{
	ocispec.MediaTypeImageManifest:                              true,
	ocispec.MediaTypeImageIndex:                                 true,
	"application/vnd.docker.distribution.manifest.v2+json":      true,
	"application/vnd.docker.distribution.manifest.list.v2+json": true,
	"application/vnd.oci.artifact.manifest.v1+json":             true,
}

// foreign says that a layer may not be distributed, and is elsewhere than its
// manifest.
func foreign(d registry.Descriptor) bool {
	return len(d.URLs) > 0 && (d.MediaType == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" ||
		strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.v1."))
}

// document is the union of what manifests reference.
type document struct {
	Config    *registry.Descriptor  `json:"config"`
	Layers    []registry.Descriptor `json:"layers"`
	Blobs     []registry.Descriptor `json:"blobs"` // of the artifact manifest
	Manifests []registry.Descriptor `json:"manifests"`
	FSLayers  json.RawMessage       `json:"fsLayers"`
	Subject   *registry.Descriptor  `json:"subject"`
}

func (d *document) references() []registry.Descriptor {
	var all []registry.Descriptor
	if d.Config != nil {
		all = append(all, *d.Config)
	}
	all = append(all, d.Layers...)
	all = append(all, d.Blobs...)
	return append(all, d.Manifests...)
}

// parse reads what a manifest references.
func parse(data []byte) (document, error) {
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, registry.ErrManifestInvalid.With("not valid JSON: %v", err)
	}
	if doc.FSLayers != nil {
		return doc, registry.ErrManifestInvalid.With("Docker schema 1 cannot be copied: push the image again with a newer Docker")
	}
	for _, d := range doc.references() {
		if err := check(d); err != nil {
			return doc, err
		}
	}
	return doc, nil
}

// check keeps what is no digest out of requests.
func check(d registry.Descriptor) error {
	if _, err := registry.ParseDigest(string(d.Digest)); err != nil {
		return registry.ErrManifestInvalid.With("a descriptor is invalid: %v", err)
	}
	if d.Size < 0 {
		return registry.ErrManifestInvalid.With("a descriptor has a negative size: %s", d.Digest)
	}
	return nil
}
