package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// recover reads what the database has, removes all else, and unpacks again what
// did not get to the disk before the host went down.
func (s *Store) recover(ctx context.Context) error {
	if err := s.read(); err != nil {
		return err
	}
	if err := s.findBlobs(); err != nil {
		return err
	}
	for id, e := range s.images {
		s.images[id] = s.load(e)
	}
	s.refresh(allOf(s.images))
	if err := s.sweepTrees(); err != nil {
		return err
	}
	if err := s.sweepIngests(); err != nil {
		return err
	}
	for _, e := range maps.Clone(s.images) {
		if err := s.restore(ctx, e); err != nil {
			s.log.ErrorContext(ctx, "a layer that was lost with the host's memory cannot be unpacked again: pull the image", "image", e.id, "error", err)
			lost := *s.images[e.id]
			lost.broken = err
			s.images[e.id] = &lost
		}
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.wakeWriter() // for what the last process did not get to
	return s.collect(nil, nil)
}

func allOf[V any](m map[string]V) map[string]bool {
	all := make(map[string]bool, len(m))
	for k := range m {
		all[k] = true
	}
	return all
}

// findBlobs lists the blobs that are there.
func (s *Store) findBlobs() error {
	sources := map[digest.Digest][]string{}
	err := s.eachSource(func(d digest.Digest, list []string) { sources[d] = list })
	if err != nil {
		return err
	}
	dir := s.path("blobs", "sha256")
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range list {
		info, err := f.Info()
		if err != nil {
			return err
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, f.Name())
		s.blobs[d] = blob{size: info.Size(), sources: sources[d], durable: true}
	}
	return nil
}

// load reads the documents of an image.
func (s *Store) load(e *entry) *entry {
	img := newImage{desc: e.rec.Manifest}
	full := *e
	err := func() (err error) {
		if img.manifestRaw, err = s.readBlob(e.rec.Manifest.Digest); err != nil {
			return err
		}
		if err := json.Unmarshal(img.manifestRaw, &img.manifest); err != nil {
			return err
		}
		if img.configRaw, err = s.readBlob(digest.Digest(e.id)); err != nil {
			return err
		}
		if err := img.parse(); err != nil {
			return err
		}
		for _, key := range e.rec.Layers {
			if _, ok := s.layers[key]; !ok {
				return fmt.Errorf("layer %s is not there", key)
			}
		}
		return nil
	}()
	full.manifest, full.config, full.broken = img.manifest, img.config, err
	if err != nil {
		s.log.Error("an image cannot be read: pull it again", "image", e.id, "error", err)
	}
	return &full
}

// sweepTrees removes the directories of layers that no record has, and sees to it
// that new ones get new numbers.
func (s *Store) sweepTrees() error {
	known := map[uint64]bool{}
	for _, l := range s.layers {
		known[l.Dir] = true
		s.number.Store(max(s.number.Load(), l.Dir))
	}
	list, err := os.ReadDir(s.path("layers"))
	if err != nil {
		return err
	}
	for _, f := range list {
		n, err := strconv.ParseUint(f.Name(), 10, 64)
		if err == nil && (known[n] || s.shared[n] > 0) {
			continue
		}
		s.log.Info("removing a layer that was not finished", "dir", f.Name())
		if err := os.RemoveAll(s.path("layers", f.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) sweepIngests() error {
	list, err := os.ReadDir(s.path("ingest"))
	if err != nil {
		return err
	}
	for _, f := range list {
		if err := os.RemoveAll(s.path("ingest", f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// restore unpacks again the layers of an image of which the host may have lost
// the tree.
func (s *Store) restore(ctx context.Context, e *entry) error {
	lost := false
	for _, key := range e.rec.Layers {
		l := s.layers[key]
		lost = lost || s.lost(l)
	}
	if !lost {
		return nil
	}
	if e.broken != nil {
		return e.broken
	}
	img := &newImage{desc: e.rec.Manifest, manifest: e.manifest, config: e.config}
	var below []string
	for i, key := range e.rec.Layers {
		l := s.layers[key]
		if s.lost(l) {
			u, err := s.again(ctx, img, i)
			if err != nil {
				return err
			}
			u.unpin()
			if err := complete(s.layerDir(u.dir), u.tree, below); err != nil {
				s.removeTree(u.dir)
				return err
			}
			if err := s.exchange(key, l, u.dir); err != nil {
				return err
			}
		}
		if l.Opaque {
			below = nil
		}
		below = append([]string{s.layerDir(l.Dir)}, below...)
	}
	return nil
}

// exchange puts a tree in the place of that of a layer. Containers know the
// directory by its name, so the name stays.
func (s *Store) exchange(key string, l layerRecord, dir uint64) error {
	if err := unix.Renameat2(unix.AT_FDCWD, s.layerDir(dir), unix.AT_FDCWD, s.layerDir(l.Dir), unix.RENAME_EXCHANGE); err != nil {
		if !errors.Is(err, unix.ENOENT) { // it was not even made
			return err
		}
		if err := os.Rename(s.layerDir(dir), s.layerDir(l.Dir)); err != nil {
			return err
		}
	}
	s.removeTree(dir)
	l.Boot = s.boot
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.write(change{layers: map[string]layerRecord{key: l}}); err != nil {
		return err
	}
	s.wakeWriter()
	return nil
}

// wakeWriter tells writeOut that there are new layers.
func (s *Store) wakeWriter() {
	select {
	case s.unsynced <- struct{}{}:
	default:
	}
}

// writeOutAfter is how long the kernel has to store new layers by itself. A sync
// right after a pull would have the first containers of the image wait for it.
const writeOutAfter = time.Minute

// writeOut stores the trees of new layers behind the answers that they are there.
func (s *Store) writeOut(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.unsynced:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(writeOutAfter):
		}
		if err := s.syncLayers(); err != nil {
			s.log.ErrorContext(ctx, "layers cannot be written out", "error", err)
		}
	}
}

// syncLayers syncs the file system, and then forgets that the layers of before
// needed it.
func (s *Store) syncLayers() error {
	c := change{layers: map[string]layerRecord{}}
	s.mu.RLock()
	for key, l := range s.layers {
		if l.Boot != "" {
			c.layers[key] = l
		}
	}
	s.mu.RUnlock()
	if len(c.layers) == 0 {
		return nil
	}
	d, err := os.Open(s.path("layers"))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.mu.RLock()
	for key, l := range c.layers {
		if now, ok := s.layers[key]; !ok || now.Dir != l.Dir || now.Boot != l.Boot {
			delete(c.layers, key) // removed or replaced meanwhile
			continue
		}
		l.Boot = ""
		c.layers[key] = l
	}
	s.mu.RUnlock()
	return s.write(c)
}
