package images

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// Image is an image of the store.
type Image struct {
	ID       string // digest of the configuration, "sha256:…"
	Manifest ocispec.Descriptor
	Config   dockerspec.DockerOCIImage // to be read, not changed
	Names    []reference.Named         // by tag and by digest, sorted
	Size     int64                     // bytes of the files of its layers
}

// Get returns the image of a name, an ID, or the beginning of an ID that no other
// image has. It fails with runner.ErrNotFound.
func (s *Store) Get(_ context.Context, ref string) (Image, error) {
	e, err := s.find(ref)
	if err != nil {
		return Image{}, err
	}
	return Image{ID: e.id, Manifest: e.rec.Manifest, Config: e.config, Names: e.refs, Size: e.size}, nil
}

// Layers returns the directories of an image's layers, the topmost first. They
// are there for as long as the image is, is held, or has users. An image that was
// removed and is only kept for its users is found here, too.
func (s *Store) Layers(_ context.Context, id string) ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.images[id]
	if e == nil {
		return nil, noSuchImage(id)
	}
	return slices.Clone(e.lower), nil
}

// find is Get for the package.
func (s *Store) find(ref string) (*entry, error) {
	e, _, err := s.findNamed(ref)
	return e, err
}

// findNamed is find, and returns the name by which the image was found: nil if
// that was its ID.
func (s *Store) findNamed(ref string) (*entry, reference.Named, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	id := ref
	if len(id) == digest.SHA256.Size()*2 {
		id = digest.SHA256.String() + ":" + id
	}
	if digest.Digest(id).Validate() == nil {
		if e := s.images[id]; e.visible() {
			return e, nil, nil
		}
		return nil, nil, noSuchImage(ref)
	}
	named, err := s.ParseRef(ref)
	if err != nil {
		return nil, nil, err
	}
	if name, err := storedName(named); err == nil {
		if e := s.images[s.names[name.String()]]; e.visible() {
			return e, name, nil
		}
	}
	if e := s.byPrefix(ref); e != nil {
		return e, nil, nil
	}
	return nil, nil, noSuchImage(s.Familiar(named))
}

// byPrefix finds the one image whose ID begins so. The caller holds mu.
func (s *Store) byPrefix(prefix string) *entry {
	var found *entry
	for id, e := range s.images {
		if e.visible() && isIDPrefix(id, prefix) {
			if found != nil {
				return nil
			}
			found = e
		}
	}
	return found
}

func isIDPrefix(id, prefix string) bool {
	_, hex, _ := strings.Cut(id, ":")
	return prefix != "" && (strings.HasPrefix(id, prefix) || strings.HasPrefix(hex, prefix))
}

// all returns the images that users see.
func (s *Store) all() []*entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*entry, 0, len(s.images))
	for _, e := range s.images {
		if e.visible() {
			list = append(list, e)
		}
	}
	return list
}

// Tag gives an image another name, which the image that had it loses.
func (s *Store) Tag(_ context.Context, ref, repo, tag string) error {
	e, err := s.find(ref)
	if err != nil {
		return err
	}
	name, err := s.newName(repo, tag)
	if err != nil {
		return err
	}
	if err := s.setName(e.id, name); err != nil {
		return err
	}
	s.imageEvent(events.ActionTag, e.id, s.Familiar(name))
	return nil
}

// setName makes a name one of an image's, durably.
func (s *Store) setName(id string, name reference.Named) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.mu.RLock()
	old := s.images[id]
	s.mu.RUnlock()
	if !old.visible() {
		return noSuchImage(id)
	}
	e := *old
	e.rec.Tagged = time.Now().UTC()
	return s.write(change{images: map[string]*entry{id: &e}, names: map[string]string{name.String(): id}})
}

// newName is the name that a repository and a tag make.
func (s *Store) newName(repo, tag string) (reference.Named, error) {
	named, err := s.parseName(repo)
	if err != nil {
		return nil, err
	}
	if isDigestRef(named) {
		return nil, runner.Errorf(runner.ErrInvalid, "refusing to create a tag with a digest reference")
	}
	if tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
		}
	}
	return reference.TagNameOnly(named), nil
}
