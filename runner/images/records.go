package images

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-registry/berth/runner"
)

// imageRecord is what the database keeps of an image, under its ID.
type imageRecord struct {
	Manifest ocispec.Descriptor `json:"manifest"`
	Layers   []string           `json:"layers"` // keys, the lowest first
	Tagged   time.Time          `json:"tagged"`
	// Origins and Local say where the content came from.
	Origins []runner.Origin `json:"origins,omitempty"`
	Local   bool            `json:"local,omitempty"`
	// Removed images are only kept for the containers that were made of them.
	Removed bool `json:"removed,omitempty"`
}

// layerRecord is what the database keeps of an unpacked layer, under its key.
type layerRecord struct {
	Dir    uint64        `json:"dir"`
	DiffID digest.Digest `json:"diff_id"`
	Size   int64         `json:"size"` // of its files
	// Opaque layers hide all that is below them.
	Opaque bool `json:"opaque,omitempty"`
	// Boot is the run of the kernel that holds the tree in its memory, until it
	// is known to be on disk.
	Boot string `json:"boot,omitempty"`
}

// blob is what is known of a file of blobs.
type blob struct {
	size    int64
	sources []string // repositories, as host/path, that have it
	durable bool     // its bytes are on disk
}

// entry is an image in memory. It is replaced, never changed.
type entry struct {
	id       string
	rec      imageRecord
	manifest ocispec.Manifest
	config   dockerspec.DockerOCIImage
	refs     []reference.Named // sorted
	lower    []string          // directories, the topmost first
	size     int64
	broken   error // its blobs cannot be read; its layers are kept
}

// visible says whether the image is one, or only kept for containers.
func (e *entry) visible() bool { return e != nil && !e.rec.Removed && e.broken == nil }

// change is what one transaction does. A zero value in a map, or an empty name,
// is a removal.
type change struct {
	images  map[string]*entry
	names   map[string]string
	layers  map[string]layerRecord
	sources map[digest.Digest][]string
}

var (
	bucketImages  = []byte("images")
	bucketNames   = []byte("names")
	bucketLayers  = []byte("layers")
	bucketSources = []byte("sources")
)

// write makes a change durable, and then visible. The caller holds writeMu.
func (s *Store) write(c change) error {
	if len(c.images)+len(c.names)+len(c.layers)+len(c.sources) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		for id, e := range c.images {
			if err := put(tx, bucketImages, id, e == nil, func() any { return e.rec }); err != nil {
				return err
			}
		}
		for name, id := range c.names {
			if err := put(tx, bucketNames, name, id == "", func() any { return id }); err != nil {
				return err
			}
		}
		for key, l := range c.layers {
			if err := put(tx, bucketLayers, key, l.Dir == 0, func() any { return l }); err != nil {
				return err
			}
		}
		for d, list := range c.sources {
			if err := put(tx, bucketSources, d.String(), len(list) == 0, func() any { return list }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("images.db: %w", err)
	}
	s.mu.Lock()
	s.apply(c)
	s.mu.Unlock()
	return nil
}

func put(tx *bolt.Tx, bucket []byte, key string, remove bool, value func() any) error {
	if remove {
		return tx.Bucket(bucket).Delete([]byte(key))
	}
	b, err := json.Marshal(value())
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put([]byte(key), b)
}

// apply makes a change in memory. The caller holds mu.
func (s *Store) apply(c change) {
	for key, l := range c.layers {
		if l.Dir == 0 {
			delete(s.layers, key)
		} else {
			s.layers[key] = l
		}
	}
	for d, list := range c.sources {
		if b, ok := s.blobs[d]; ok {
			b.sources = list
			s.blobs[d] = b
		}
	}
	touched := map[string]bool{}
	for name, id := range c.names {
		touched[s.names[name]] = true
		if id == "" {
			delete(s.names, name)
			continue
		}
		s.names[name], touched[id] = id, true
	}
	for id, e := range c.images {
		if e == nil {
			delete(s.images, id)
			continue
		}
		s.images[id], touched[id] = e, true
	}
	s.refresh(touched)
}

// refresh brings the names and directories of images up to date.
func (s *Store) refresh(ids map[string]bool) {
	refs := map[string][]reference.Named{}
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		if id := s.names[name]; ids[id] {
			if named, err := reference.ParseNormalizedNamed(name); err == nil {
				refs[id] = append(refs[id], named)
			}
		}
	}
	for id := range ids {
		old := s.images[id]
		if old == nil {
			continue
		}
		e := *old
		e.refs, e.lower, e.size = refs[id], nil, 0
		hidden := false
		for _, key := range slices.Backward(e.rec.Layers) {
			l := s.layers[key]
			e.size += l.Size
			// A layer that is there twice hides its lower self, and overlayfs
			// takes no directory twice.
			if dir := s.layerDir(l.Dir); !hidden && !slices.Contains(e.lower, dir) {
				e.lower = append(e.lower, dir)
			}
			hidden = hidden || l.Opaque
		}
		s.images[id] = &e
	}
}

func (s *Store) layerDir(n uint64) string { return s.path("layers", strconv.FormatUint(n, 10)) }

// read fills an empty store from the database.
func (s *Store) read() error {
	c := change{images: map[string]*entry{}, names: map[string]string{}, layers: map[string]layerRecord{}}
	err := s.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketImages, bucketNames, bucketLayers, bucketSources} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		each := func(bucket []byte, f func(k string, v []byte) error) error {
			return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
				if err := f(string(k), v); err != nil {
					return fmt.Errorf("%s/%s: %w", bucket, k, err)
				}
				return nil
			})
		}
		return firstError(
			each(bucketImages, func(k string, v []byte) error {
				e := &entry{id: k}
				c.images[k] = e
				return json.Unmarshal(v, &e.rec)
			}),
			each(bucketNames, func(k string, v []byte) error {
				var id string
				err := json.Unmarshal(v, &id)
				c.names[k] = id
				return err
			}),
			each(bucketLayers, func(k string, v []byte) error {
				var l layerRecord
				err := json.Unmarshal(v, &l)
				c.layers[k] = l
				return err
			}),
		)
	})
	if err != nil {
		return fmt.Errorf("images.db: %w", err)
	}
	s.apply(c)
	return nil
}

// eachSource yields the repositories that are known to have a blob.
func (s *Store) eachSource(f func(d digest.Digest, list []string)) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketSources).ForEach(func(k, v []byte) error {
			var list []string
			err := json.Unmarshal(v, &list)
			f(digest.Digest(k), list)
			return err
		})
	})
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// shortID is the form of an ID that users read.
func shortID(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok {
		hex = id
	}
	return hex[:min(12, len(hex))]
}
