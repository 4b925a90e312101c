package images

import (
	"context"
	"fmt"
	"io"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// Load makes the images of an archive the store's: of one that docker or podman
// saved, or of an OCI layout, compressed or not. Of an index it takes the image
// for this host. Messages are those of docker.
func (s *Store) Load(ctx context.Context, r io.Reader, quiet bool, p runner.Progress) error {
	p = inTurn(p)
	a, err := s.openArchive(ctx, r)
	if err != nil {
		return err
	}
	defer a.close()
	list, err := s.loadable(ctx, a)
	if err != nil {
		return err
	}
	steps := p
	if quiet {
		steps = nil
	}
	for _, l := range list {
		if err := s.loadImage(ctx, a, l, steps, p); err != nil {
			return err
		}
	}
	return nil
}

// loading is an image of an archive.
type loading struct {
	img    *newImage // its manifest is empty if the archive has none that fits
	layers []string  // files
}

// loadable lists the images of an archive.
func (s *Store) loadable(ctx context.Context, a *archive) ([]*loading, error) {
	var list []*loading
	if a.has(ocispec.ImageIndexFile) {
		var err error
		if list, err = s.layoutImages(ctx, a); err != nil && !a.has("manifest.json") {
			return nil, err
		}
	}
	if !a.has("manifest.json") {
		if len(list) == 0 {
			return nil, runner.Errorf(runner.ErrInvalid, "unrecognized image format: the archive has no images")
		}
		return list, nil
	}
	var entries []archived
	if err := a.json("manifest.json", &entries); err != nil {
		return nil, err
	}
	if len(entries) > maxIndexEntries {
		return nil, runner.Errorf(runner.ErrInvalid, "the archive has %d images; at most %d are allowed", len(entries), maxIndexEntries)
	}
	known := list
	list = nil
	for _, e := range entries {
		l, err := dockerImage(a, e, known)
		if err != nil {
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

// layoutImages are those that index.json has for this host.
func (s *Store) layoutImages(ctx context.Context, a *archive) ([]*loading, error) {
	var index ocispec.Index
	if err := a.json(ocispec.ImageIndexFile, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) > maxIndexEntries {
		return nil, runner.Errorf(runner.ErrInvalid, "the archive has %d images; at most %d are allowed", len(index.Manifests), maxIndexEntries)
	}
	var list []*loading
	for _, desc := range index.Manifests {
		c := chooser{ctx: ctx, s: s, f: a}
		img, err := c.manifest(desc, 0)
		if isNoMatch(err) && len(index.Manifests) > 1 {
			continue
		}
		if err != nil {
			return nil, err
		}
		if img.configRaw, err = s.document(ctx, a, "", img.manifest.Config); err != nil {
			return nil, err
		}
		if err := img.parse(); err != nil {
			return nil, err
		}
		if named := layoutName(desc.Annotations); named != nil {
			img.names = append(img.names, named)
		}
		list = append(list, &loading{img: img, layers: layerNames(img.manifest.Layers)})
	}
	return list, nil
}

// layoutName is the name that an index gives an image; a tag alone is none.
func layoutName(annotations map[string]string) reference.Named {
	for _, key := range []string{nameAnnotation, ocispec.AnnotationRefName} {
		named, err := reference.ParseNormalizedNamed(annotations[key])
		if err != nil {
			continue
		}
		if tagged, ok := named.(reference.NamedTagged); ok {
			return tagged
		}
	}
	return nil
}

// dockerImage is an image of manifest.json, with the manifest of an OCI layout
// that is there, too, if that is of the same image and of packed layers.
func dockerImage(a *archive, e archived, known []*loading) (*loading, error) {
	l := &loading{img: &newImage{}, layers: e.Layers}
	var err error
	if l.img.configRaw, err = a.document(e.Config); err != nil {
		return nil, err
	}
	packed := true
	for _, name := range e.Layers {
		p, _, err := a.packing(name)
		if err != nil {
			return nil, err
		}
		packed = packed && (p == packedGzip || p == packedZstd)
	}
	for _, k := range known {
		if packed && k.img.id() == l.img.id() && len(k.layers) == len(e.Layers) {
			l.img, l.layers = &newImage{desc: k.img.desc, manifestRaw: k.img.manifestRaw, manifest: k.img.manifest, configRaw: k.img.configRaw}, k.layers
			break
		}
	}
	if l.img.manifestRaw == nil {
		l.img.manifest.Layers = make([]ocispec.Descriptor, len(e.Layers))
		for i := range l.img.manifest.Layers { // until they are known
			l.img.manifest.Layers[i].Digest = digest.FromString("")
		}
	}
	if err := l.img.parse(); err != nil {
		return nil, err
	}
	for _, t := range e.RepoTags {
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid archive of images: invalid tag %q", shorten(t))
		}
		tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
		if !ok {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid archive of images: invalid tag %q", shorten(t))
		}
		l.img.names = append(l.img.names, tagged)
	}
	return l, nil
}

// loadImage brings one image of an archive into the store.
func (s *Store) loadImage(ctx context.Context, a *archive, l *loading, steps, p runner.Progress) (err error) {
	img := l.img
	unpin := s.pin(img.pins()...)
	defer func() { s.conclude(unpin, err) }()
	img.layers = make([]*unpacked, len(l.layers))
	defer s.releaseAll(img)
	made := img.manifestRaw == nil
	had := make([]bool, len(l.layers))
	if !made {
		had = s.has(img)
	}
	for i, name := range l.layers {
		if had[i] {
			continue
		}
		id := shortID(img.config.RootFS.DiffIDs[i].String())
		err := s.loadLayer(ctx, a, img, i, name, made, func(m *meter, total int64, done <-chan struct{}) {
			watchLoading(steps, id, total, m, done)
		})
		if err != nil {
			return err
		}
	}
	if made {
		if err := img.makeManifest(); err != nil {
			return err
		}
		defer s.pin(img.pins()...)()
	}
	old := s.owners(img.names)
	if _, err := s.add(ctx, img); err != nil {
		return err
	}
	for _, n := range img.names {
		if was := old[n.String()]; was != "" && was != img.id() {
			stream(p, fmt.Sprintf("The image %s already exists, renaming the old one with ID %s to empty string\n", s.Familiar(n), was))
		}
		stream(p, "Loaded image: "+s.Familiar(n)+"\n")
	}
	if len(img.names) == 0 {
		stream(p, "Loaded image ID: "+img.id()+"\n")
	}
	s.imageEvent(events.ActionLoad, img.id(), img.id())
	return nil
}

// owners tells which images have the names now.
func (s *Store) owners(names []reference.Named) map[string]string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := map[string]string{}
	for _, n := range names {
		ids[n.String()] = s.names[n.String()]
	}
	return ids
}

func stream(p runner.Progress, text string) {
	if p != nil {
		p(jsonstream.Message{Stream: text})
	}
}
