package images

import (
	"context"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// maxSources bounds the repositories that are remembered for a blob.
const maxSources = 16

// add makes an image visible under its names, and says whether that changed
// anything. What it needs must be pinned, and its layers ingested.
func (s *Store) add(ctx context.Context, img *newImage) (changed bool, err error) {
	if err := firstError(s.putBlob(img.manifestRaw), s.putBlob(img.configRaw), s.syncBlobs(img.blobs()...)); err != nil {
		return false, err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	keys, layers, err := s.settle(ctx, img)
	if err != nil {
		return false, err
	}
	id := img.id()
	c := change{names: map[string]string{}, layers: layers, sources: map[digest.Digest][]string{}}
	s.mu.RLock()
	old := s.images[id]
	for _, n := range img.names {
		if name, err := storedName(n); err == nil && s.names[name.String()] != id {
			c.names[name.String()] = id
		}
	}
	if img.source != "" {
		for _, l := range img.manifest.Layers {
			if list := s.blobs[l.Digest].sources; !slices.Contains(list, img.source) {
				c.sources[l.Digest] = append(slices.Clone(list[max(0, len(list)-maxSources+1):]), img.source)
			}
		}
	}
	s.mu.RUnlock()
	e := &entry{
		id: id, manifest: img.manifest, config: img.config,
		rec: imageRecord{Manifest: img.desc, Layers: keys, Tagged: time.Now().UTC()},
	}
	originated := e.rec.originate(old, img)
	if old.visible() && slices.Equal(old.rec.Layers, keys) {
		// The same image. What a registry has for it counts more than what was
		// made here.
		e.rec.Tagged = old.rec.Tagged
		if img.source == "" || old.rec.Manifest.Digest == img.desc.Digest {
			e.manifest, e.rec.Manifest = old.manifest, old.rec.Manifest
		}
		if len(c.names) > 0 {
			e.rec.Tagged = time.Now().UTC()
		}
	} else {
		changed = true
	}
	changed = changed || len(c.names) > 0
	if changed || e.rec.Manifest.Digest != old.rec.Manifest.Digest || len(c.sources) > 0 || originated {
		c.images = map[string]*entry{id: e}
		if err := s.write(c); err != nil {
			return false, err
		}
	}
	if len(layers) > 0 {
		s.wakeWriter()
	}
	return changed, nil
}

// namesOf returns the names of an image by tag and by digest.
func namesOf(e *entry) (tags, digests []reference.Named) {
	for _, r := range e.refs {
		if isDigestRef(r) {
			digests = append(digests, r)
		} else {
			tags = append(tags, r)
		}
	}
	return tags, digests
}
