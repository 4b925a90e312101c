package images

import (
	"context"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// User is a container that was made of an image.
type User struct {
	ContainerID string
	Running     bool
}

// Hold keeps an image from being removed until release is called: from when a
// container is being made of it until the container is among the users that
// callers tell of.
func (s *Store) Hold(id string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.images[id].visible() {
		return nil, noSuchImage(id)
	}
	s.holds[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.holds[id]--; s.holds[id] == 0 {
			delete(s.holds, id)
		}
	}, nil
}

// Sweep gives back the disk of images that were removed while containers of
// theirs were there, if those have gone. It costs nothing if there are none.
func (s *Store) Sweep(_ context.Context, users func(imageID string) []User) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	gone, some := s.garbage(users)
	if !some {
		return nil
	}
	return s.collect(gone, nil)
}

// garbage returns the removed images that no container has. With nil users it
// returns none. The caller holds writeMu.
func (s *Store) garbage(users func(imageID string) []User) (gone map[string]*entry, some bool) {
	gone = map[string]*entry{}
	s.mu.RLock()
	var removed []string
	for id, e := range s.images {
		if e.rec.Removed && s.holds[id] == 0 {
			removed = append(removed, id)
		}
	}
	s.mu.RUnlock()
	for _, id := range removed { // users may look into the store
		if users != nil && len(users(id)) == 0 {
			gone[id] = nil
		}
	}
	return gone, len(gone) > 0
}

// collect removes images, and then what no other image has: layers and blobs. The
// change c, which may be nil, is of the same transaction. The caller holds
// writeMu.
func (s *Store) collect(gone map[string]*entry, c *change) error {
	if c == nil {
		c = &change{}
	}
	if c.images == nil {
		c.images = map[string]*entry{}
	}
	for id := range gone {
		c.images[id] = nil
	}
	trees, blobs := s.unused(c)
	if err := s.write(*c); err != nil {
		return err
	}
	for _, dir := range trees {
		s.removeTree(dir)
	}
	for _, d := range blobs {
		s.removeBlob(d)
	}
	return nil
}

// unused finds what no image has when c is done, and adds the removal of its
// records to c.
func (s *Store) unused(c *change) (trees []uint64, blobs []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := map[string]bool{}
	for id, e := range s.images {
		if next, ok := c.images[id]; ok {
			e = next
		}
		if e == nil {
			continue
		}
		used[id], used[e.rec.Manifest.Digest.String()] = true, true
		for _, l := range e.manifest.Layers {
			used[l.Digest.String()] = true
		}
		for _, key := range e.rec.Layers {
			used[layerPin(key)] = true
		}
	}
	c.layers = map[string]layerRecord{}
	for key, l := range s.layers {
		if !used[layerPin(key)] && s.pins[layerPin(key)] == 0 && s.shared[l.Dir] == 0 {
			c.layers[key] = layerRecord{}
			trees = append(trees, l.Dir)
		}
	}
	if c.sources == nil {
		c.sources = map[digest.Digest][]string{}
	}
	for d, b := range s.blobs {
		if !used[d.String()] && s.pins[d.String()] == 0 {
			if len(b.sources) > 0 {
				c.sources[d] = nil
			}
			blobs = append(blobs, d)
			delete(s.blobs, d)
		}
	}
	return trees, blobs
}

// conclude ends an operation that has pinned what it needed, and gives back the
// disk of what it made if it failed.
func (s *Store) conclude(unpin func(), err error) {
	unpin()
	if err == nil {
		return
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.collect(nil, nil); err != nil {
		s.log.Warn("what an operation that failed has made is left until the next start", "error", err)
	}
}

// layerPin is how a layer is named among pins, where blobs are named, too.
func layerPin(key string) string { return "layer:" + key }

// removeBlob removes a blob's file, unless it has come again.
func (s *Store) removeBlob(d digest.Digest) {
	s.blobMu.Lock()
	defer s.blobMu.Unlock()
	if s.hasBlob(d) {
		return
	}
	if err := os.Remove(s.blobPath(d)); err != nil && !os.IsNotExist(err) {
		s.log.Warn("a blob is left until the next start", "digest", d, "error", err)
	}
}

func noSuchImage(ref string) error {
	return runner.Errorf(runner.ErrNotFound, "No such image: %s", ref)
}
