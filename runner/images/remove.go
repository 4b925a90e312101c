package images

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"

	"github.com/berth-registry/berth/runner"
)

// Remove removes a name of an image, or the image, by docker's rules: a name goes
// unless it is the last of an image that a container uses; with the last name
// goes the image; by its ID an image goes if it has names in one repository only.
// Force sets these conditions aside, but not that no container of it runs.
//
// It fails with runner.ErrNotFound, or with runner.ErrConflict and the text that
// docker has for it. An image that stopped containers use leaves its layers to
// them; Sweep gives them back.
func (s *Store) Remove(_ context.Context, ref string, opts runner.ImageRemoveOptions, users func(imageID string) []User) ([]image.DeleteResponse, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	e, name, err := s.findNamed(ref)
	if err != nil {
		return nil, err
	}
	r := &removal{s: s, e: e, ref: ref, force: opts.Force, left: e.refs}
	if users != nil {
		r.users, r.lookup = users(e.id), users
	}
	if name == nil {
		err = r.byID()
	} else {
		err = r.byName(name)
	}
	if err != nil {
		return nil, err
	}
	if err := r.commit(); err != nil {
		return nil, err
	}
	return r.response, nil
}

// removal is one call of Remove: first it finds out what is to be done, then does
// that in one transaction.
type removal struct {
	s      *Store
	e      *entry
	ref    string
	force  bool
	users  []User
	lookup func(imageID string) []User

	left     []reference.Named // the names that stay
	untag    []reference.Named
	delete   bool
	response []image.DeleteResponse
}

func (r *removal) byName(named reference.Named) error {
	if !r.force && singleReference(r.left) && len(r.users) > 0 {
		return runner.Errorf(runner.ErrConflict, "conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
			r.ref, shortID(r.users[0].ContainerID), shortID(r.e.id))
	}
	r.drop(func(n reference.Named) bool { return n.String() == named.String() })
	sameRepo := func(n reference.Named) bool { return n.Name() == named.Name() }
	if !isDigestRef(named) && !slices.ContainsFunc(r.left, func(n reference.Named) bool { return sameRepo(n) && !isDigestRef(n) }) {
		r.drop(sameRepo) // digests of a repository of which there is no tag any more
	}
	if len(r.left) > 0 {
		return nil
	}
	if r.conflict(true) == nil {
		r.delete = true
	}
	return nil // it stays, without a name, for the container that uses it
}

func (r *removal) byID() error {
	if !singleReference(r.left) && len(r.left) > 0 && !r.force {
		if err := r.running(); err != nil {
			return err
		}
		return r.conflictf("must be forced", "image is referenced in multiple repositories")
	}
	if err := r.conflict(!r.force); err != nil {
		return err
	}
	r.drop(func(reference.Named) bool { return true })
	r.delete = true
	return nil
}

// conflict returns why the image cannot be removed; stopped says whether
// containers that do not run count.
func (r *removal) conflict(stopped bool) error {
	if err := r.running(); err != nil {
		return err
	}
	if stopped && len(r.users) > 0 && !r.force {
		return r.conflictf("must be forced", "image is being used by stopped container "+shortID(r.users[0].ContainerID))
	}
	return nil
}

func (r *removal) running() error {
	for _, u := range r.users {
		if u.Running {
			return r.conflictf("cannot be forced", "image is being used by running container "+shortID(u.ContainerID))
		}
	}
	return nil
}

func (r *removal) conflictf(force, why string) error {
	return runner.Errorf(runner.ErrConflict, "conflict: unable to delete %s (%s) - %s", shortID(r.e.id), force, why)
}

// drop takes names away.
func (r *removal) drop(which func(reference.Named) bool) {
	var left []reference.Named
	for _, n := range r.left {
		if !which(n) {
			left = append(left, n)
			continue
		}
		r.untag = append(r.untag, n)
		r.response = append(r.response, image.DeleteResponse{Untagged: r.s.Familiar(n)})
	}
	r.left = left
}

// commit does what was decided.
func (r *removal) commit() error {
	s, c := r.s, change{names: map[string]string{}}
	for _, n := range r.untag {
		c.names[n.String()] = ""
	}
	gone := map[string]*entry{}
	if r.delete {
		r.response = append(r.response, image.DeleteResponse{Deleted: r.e.id})
		s.mu.RLock()
		held := s.holds[r.e.id] > 0
		s.mu.RUnlock()
		if len(r.users) > 0 || held {
			kept := *r.e
			kept.rec.Removed = true
			c.images = map[string]*entry{r.e.id: &kept}
		} else {
			gone[r.e.id] = nil
			r.response = append(r.response, s.lastLayers(r.e)...)
		}
	}
	if r.lookup != nil {
		others, _ := s.garbage(r.lookup)
		for id := range others {
			gone[id] = nil
		}
	}
	if err := s.collect(gone, &c); err != nil {
		return fmt.Errorf("remove image %s: %w", shortID(r.e.id), err)
	}
	attrs := func(name string) map[string]string {
		a := map[string]string{}
		maps.Copy(a, r.e.config.Config.Labels)
		a["name"] = name
		return a
	}
	for range r.untag {
		s.event(events.ActionUnTag, r.e.id, attrs(r.e.id))
	}
	if r.delete {
		s.event(events.ActionDelete, r.e.id, attrs(r.e.id))
	}
	return nil
}

// lastLayers names, as docker does by their chain IDs, the layers that go with an
// image, the topmost first.
func (s *Store) lastLayers(e *entry) []image.DeleteResponse {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []image.DeleteResponse
	img := newImage{config: e.config}
	for i, chain := range slices.Backward(img.chainIDs()) {
		for id, other := range s.images {
			if id != e.id && slices.Contains(other.rec.Layers, e.rec.Layers[i]) {
				return list
			}
		}
		list = append(list, image.DeleteResponse{Deleted: chain.String()})
	}
	return list
}

// singleReference says whether names are of one repository, with one tag at most.
func singleReference(refs []reference.Named) bool {
	if len(refs) == 0 {
		return true
	}
	tags := 0
	for _, r := range refs {
		if !isDigestRef(r) {
			tags++
		}
		if r.Name() != refs[0].Name() {
			return false
		}
	}
	return tags <= 1
}

// Prune removes images that no container was made of: those without a tag, or, if
// the filter dangling is false, all.
func (s *Store) Prune(ctx context.Context, filters runner.Filters, users func(imageID string) []User) (image.PruneReport, error) {
	report := image.PruneReport{ImagesDeleted: []image.DeleteResponse{}}
	if err := filters.Allow("dangling", "label", "label!", "until"); err != nil {
		return report, err
	}
	given, dangling, err := boolFilter(filters, "dangling")
	if err != nil {
		return report, err
	}
	match, err := s.matcher(filters)
	if err != nil {
		return report, err
	}
	before := s.layerBytes()
	for _, e := range s.all() {
		if tags, _ := namesOf(e); (!given || dangling) && len(tags) > 0 || !match(e) {
			continue
		}
		if users != nil && len(users(e.id)) > 0 {
			continue
		}
		for _, ref := range append(familiars(s, e), e.id) {
			list, err := s.Remove(ctx, ref, runner.ImageRemoveOptions{}, users)
			if err != nil {
				continue // it is gone with its last name, or has got a container
			}
			report.ImagesDeleted = append(report.ImagesDeleted, list...)
		}
		if err := ctx.Err(); err != nil {
			return report, err
		}
	}
	report.SpaceReclaimed = uint64(max(0, before-s.layerBytes()))
	s.event(events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	return report, nil
}

func familiars(s *Store, e *entry) []string {
	list := make([]string, len(e.refs))
	for i, r := range e.refs {
		list[i] = s.Familiar(r)
	}
	return list
}

// layerBytes is the size of the files of all layers.
func (s *Store) layerBytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var n int64
	for _, l := range s.layers {
		n += l.Size
	}
	return n
}
