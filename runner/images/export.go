package images

import (
	"context"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// Exported is an image as a registry gets it. The store's Open returns its blobs.
type Exported struct {
	ID       string
	Manifest ocispec.Descriptor
	Blobs    []ocispec.Descriptor // the configuration, and the layers from the lowest up
	// DiffIDs are those of the layers, by the digests of their blobs.
	DiffIDs map[digest.Digest]digest.Digest
	// MountFrom tells in which other repositories of the registry, without its
	// host, a layer is.
	MountFrom map[digest.Digest][]string
	// Release must be called when it is sent: the blobs may be removed then.
	Release func()
}

// Export returns what is to be sent of the image of a name, compressed. It fails with
// runner.ErrNotFound and docker's text if there is none, or if platform is given
// and not the image's.
func (s *Store) Export(ctx context.Context, ref reference.Named, platform string) (Exported, error) {
	stored, err := storedName(ref)
	if err != nil {
		return Exported{}, err
	}
	s.mu.RLock()
	e := s.images[s.names[stored.String()]]
	s.mu.RUnlock()
	if e.visible() {
		if err := s.pack(ctx, e.id); err != nil {
			return Exported{}, err
		}
		s.mu.RLock()
		e = s.images[e.id]
		s.mu.RUnlock()
	}
	if !e.visible() {
		return Exported{}, runner.Errorf(runner.ErrNotFound, "An image does not exist locally with the tag: %s", s.familiarName(ref))
	}
	if _, err := s.findFor(e.id, platform); err != nil {
		return Exported{}, err
	}
	out := Exported{
		ID: e.id, Manifest: e.rec.Manifest,
		Blobs:   append([]ocispec.Descriptor{e.manifest.Config}, e.manifest.Layers...),
		DiffIDs: map[digest.Digest]digest.Digest{}, MountFrom: map[digest.Digest][]string{},
	}
	pins := []string{e.rec.Manifest.Digest.String()}
	for _, b := range out.Blobs {
		pins = append(pins, b.Digest.String())
	}
	out.Release = s.pin(pins...)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i, l := range e.manifest.Layers {
		out.DiffIDs[l.Digest] = e.config.RootFS.DiffIDs[i]
		for _, source := range s.blobs[l.Digest].sources {
			if repo, ok := strings.CutPrefix(source, reference.Domain(ref)+"/"); ok && repo != reference.Path(ref) && !slices.Contains(out.MountFrom[l.Digest], repo) {
				out.MountFrom[l.Digest] = append(out.MountFrom[l.Digest], repo)
			}
		}
	}
	return out, nil
}

// TagsOf returns the names by tag that images have in the repository of a name,
// sorted.
func (s *Store) TagsOf(_ context.Context, name reference.Named) ([]reference.NamedTagged, error) {
	var list []reference.NamedTagged
	for _, e := range s.all() {
		tags, _ := namesOf(e)
		for _, t := range tags {
			if tagged, ok := t.(reference.NamedTagged); ok && t.Name() == name.Name() {
				list = append(list, tagged)
			}
		}
	}
	slices.SortFunc(list, func(a, b reference.NamedTagged) int { return strings.Compare(a.Tag(), b.Tag()) })
	return list, nil
}

// Pushed records that a registry has an image: by the digest of the manifest in
// the repository of name it is known from now on, and its layers can be mounted
// from there.
func (s *Store) Pushed(_ context.Context, name reference.Named, sent Exported) error {
	digested, err := reference.WithDigest(reference.TrimNamed(name), sent.Manifest.Digest)
	if err != nil {
		return err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.mu.RLock()
	e := s.images[sent.ID]
	c := change{names: map[string]string{}, sources: map[digest.Digest][]string{}}
	for _, l := range sent.Blobs {
		if b, ok := s.blobs[l.Digest]; ok && !slices.Contains(b.sources, name.Name()) {
			c.sources[l.Digest] = append(slices.Clone(b.sources[max(0, len(b.sources)-maxSources+1):]), name.Name())
		}
	}
	if e.visible() && s.names[digested.String()] != sent.ID {
		c.names[digested.String()] = sent.ID
	}
	s.mu.RUnlock()
	if e != nil {
		next := *e
		if next.rec.addOrigin(pushedTo(name, sent)) {
			c.images = map[string]*entry{sent.ID: &next}
		}
	}
	return s.write(c)
}

// DiskUsage returns the bytes that blobs and unpacked layers take, each counted
// once however many images have it.
func (s *Store) DiskUsage(context.Context) (layers, blobs int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.layers {
		layers += l.Size
	}
	for _, b := range s.blobs {
		blobs += b.size
	}
	return layers, blobs
}
