package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// nameAnnotation is where the full name of an image stands in an index.
const nameAnnotation = "io.containerd.image.name"

// archived is an image in manifest.json, the index of docker's archives.
type archived struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Save writes images as an archive that every engine loads: an OCI layout, with
// the index that docker's archives have. A reference without a tag or digest
// means all tags of the repository. With platforms given, an image of another is
// an error.
func (s *Store) Save(ctx context.Context, refs, platforms []string, w io.Writer) error {
	list, unpin, err := s.toSave(refs, platforms)
	if err != nil {
		return err
	}
	defer unpin()
	a := &archiver{s: s, tw: tar.NewWriter(w), done: map[digest.Digest]bool{}, repositories: map[string]map[string]string{}}
	for _, img := range list {
		if err := a.image(ctx, img); err != nil {
			return err
		}
	}
	if err := a.close(); err != nil {
		return err
	}
	for _, img := range list {
		s.imageEvent(events.ActionSave, img.e.id, img.e.id)
	}
	return nil
}

// saved is an image with the names under which it is saved.
type saved struct {
	e    *entry
	tags []reference.Named
}

// toSave finds the images, each once, and pins their blobs.
func (s *Store) toSave(refs, wanted []string) (list []*saved, unpin func(), err error) {
	byID := map[string]*saved{}
	add := func(e *entry, tags ...reference.Named) {
		img := byID[e.id]
		if img == nil {
			img = &saved{e: e}
			byID[e.id] = img
			list = append(list, img)
		}
		for _, t := range tags {
			if !slices.ContainsFunc(img.tags, func(n reference.Named) bool { return n.String() == t.String() }) {
				img.tags = append(img.tags, t)
			}
		}
	}
	for _, ref := range refs {
		if err := s.namedBy(ref, add); err != nil {
			return nil, nil, err
		}
	}
	var pins []string
	for _, img := range list {
		if err := onlyOf(img.e, wanted); err != nil {
			return nil, nil, err
		}
		pins = append(pins, img.e.id, img.e.rec.Manifest.Digest.String())
		for _, l := range img.e.manifest.Layers {
			pins = append(pins, l.Digest.String())
		}
	}
	return list, s.pin(pins...), nil
}

// namedBy calls add for each image that a reference of save means.
func (s *Store) namedBy(ref string, add func(*entry, ...reference.Named)) error {
	named, perr := s.parseName(ref)
	if perr == nil && reference.IsNameOnly(named) {
		found := false
		for _, e := range s.all() {
			tags, _ := namesOf(e)
			for _, t := range tags {
				if t.Name() == named.Name() {
					add(e, t)
					found = true
				}
			}
		}
		if found {
			return nil
		}
	}
	e, name, err := s.findNamed(ref)
	if err != nil {
		return err
	}
	if name != nil && !isDigestRef(name) {
		add(e, name)
	} else {
		add(e)
	}
	return nil
}

// onlyOf fails if platforms are wanted of which none is the image's.
func onlyOf(e *entry, wanted []string) error {
	if len(wanted) == 0 {
		return nil
	}
	have := platformOf(e.config.Platform)
	for _, w := range wanted {
		p, err := parsePlatform(w)
		if err != nil {
			return err
		}
		if p == nil || platforms.OnlyStrict(*p).Match(have) {
			return nil
		}
	}
	return runner.Errorf(runner.ErrNotFound, "image %s is for the platform %s only", shortID(e.id), platforms.FormatAll(have))
}

// archiver writes an archive of images.
type archiver struct {
	s            *Store
	tw           *tar.Writer
	done         map[digest.Digest]bool
	index        ocispec.Index
	images       []archived
	repositories map[string]map[string]string
}

func (a *archiver) image(ctx context.Context, img *saved) error {
	e := img.e
	entry := archived{Config: blobName(digest.Digest(e.id)), RepoTags: []string{}, Layers: []string{}}
	all := append([]ocispec.Descriptor{e.rec.Manifest, {Digest: digest.Digest(e.id)}}, e.manifest.Layers...)
	for i, desc := range all {
		if i > 1 {
			entry.Layers = append(entry.Layers, blobName(desc.Digest))
		}
		if err := a.blob(ctx, desc.Digest); err != nil {
			return err
		}
	}
	desc := e.rec.Manifest
	platform := platformOf(e.config.Platform)
	desc.Platform = &platform
	for _, t := range img.tags {
		entry.RepoTags = append(entry.RepoTags, reference.FamiliarString(t))
		tagged, ok := t.(reference.Tagged)
		if !ok {
			continue
		}
		d := desc
		d.Annotations = map[string]string{nameAnnotation: t.String(), ocispec.AnnotationRefName: tagged.Tag()}
		a.index.Manifests = append(a.index.Manifests, d)
		name := reference.FamiliarName(t)
		if a.repositories[name] == nil {
			a.repositories[name] = map[string]string{}
		}
		if n := len(e.manifest.Layers); n > 0 {
			a.repositories[name][tagged.Tag()] = e.manifest.Layers[n-1].Digest.Encoded()
		}
	}
	if len(img.tags) == 0 {
		a.index.Manifests = append(a.index.Manifests, desc)
	}
	a.images = append(a.images, entry)
	return nil
}

func blobName(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

func (a *archiver) blob(ctx context.Context, d digest.Digest) error {
	if a.done[d] {
		return nil
	}
	a.done[d] = true
	f, err := os.Open(a.s.blobPath(d))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := a.header(blobName(d), info.Size()); err != nil {
		return err
	}
	_, err = io.CopyBuffer(a.tw, contextReader{ctx, f}, make([]byte, copyBuffer))
	return err
}

func (a *archiver) header(name string, size int64) error {
	return a.tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)})
}

func (a *archiver) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := a.header(name, int64(len(b))); err != nil {
		return err
	}
	_, err = a.tw.Write(b)
	return err
}

// close writes the indexes.
func (a *archiver) close() error {
	a.index.Versioned = specs.Versioned{SchemaVersion: 2}
	a.index.MediaType = ocispec.MediaTypeImageIndex
	return firstError(
		a.json(ocispec.ImageIndexFile, a.index),
		a.json("manifest.json", a.images),
		a.json(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}),
		a.json("repositories", a.repositories),
		a.tw.Close(),
	)
}

// contextReader fails when its context is done.
type contextReader struct {
	ctx context.Context //nolint:containedctx // it lives for one call
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
