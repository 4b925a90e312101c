package images

import (
	"slices"

	"github.com/distribution/reference"

	"github.com/berth-registry/berth/runner"
)

// maxOrigins bounds the origins that are remembered for an image: the last count.
const maxOrigins = 32

// Provenance returns where the content of the image with an ID came from, which
// neither Tag nor Load can say. An image that was removed and is only kept for its
// users is found here, too. Of an image that was made before origins were recorded
// there is none, and it is not local either. It fails with runner.ErrNotFound.
func (s *Store) Provenance(id string) (runner.Provenance, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.images[id]
	if e == nil {
		return runner.Provenance{}, noSuchImage(id)
	}
	return runner.Provenance{Origins: e.rec.Origins, Local: e.rec.Local}, nil
}

// Provenances returns where all images came from, by their IDs.
func (s *Store) Provenances() map[string]runner.Provenance {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := map[string]runner.Provenance{}
	for id, e := range s.images {
		all[id] = runner.Provenance{Origins: e.rec.Origins, Local: e.rec.Local}
	}
	return all
}

// originate takes over where an image is known to come from, and adds where it has
// come from now. It says whether that is new.
func (r *imageRecord) originate(old *entry, img *newImage) (added bool) {
	if old != nil {
		r.Origins, r.Local = old.rec.Origins, old.rec.Local
	}
	if img.source == "" {
		added, r.Local = !r.Local, true
		return added
	}
	return r.addOrigin(runner.Origin{Repository: img.source, Root: img.root, Manifest: img.desc.Digest})
}

// addOrigin adds an origin, and says whether it is new.
func (r *imageRecord) addOrigin(o runner.Origin) bool {
	if slices.Contains(r.Origins, o) {
		return false
	}
	r.Origins = append(slices.Clone(r.Origins[max(0, len(r.Origins)-maxOrigins+1):]), o)
	return true
}

// pushedTo is the origin of what a registry has taken: it could be pulled from there.
func pushedTo(name reference.Named, sent Exported) runner.Origin {
	return runner.Origin{Repository: name.Name(), Root: sent.Manifest.Digest, Manifest: sent.Manifest.Digest}
}
