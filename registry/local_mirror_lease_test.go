package registry_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

// cacheDue makes a registry with a cache that keeps what it has for 10 days, and a
// manifest there that has just come to be garbage. Who else shares its store knows of
// the cache, too.
func cacheDue(t *testing.T, shared bool) (c *collected, others []*registry.Local, store *bolt.Meta, d digest.Digest) {
	t.Helper()
	store = must[*bolt.Meta](t)(bolt.Open(filepath.Join(t.TempDir(), "meta.db")))
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	c = &collected{clock: &clock{now: time.Unix(1e9, 0)}, t: t, blobs: mem.NewBlobs(), meta: store}
	if shared {
		c.meta = struct{ storage.Meta }{store}
	}
	nothing := func(digest.Digest) error { return nil }
	c.Local, others = c.replica(nothing), []*registry.Local{c.replica(nothing), c.replica(nothing)}
	for _, l := range append(others, c.Local) {
		l.SetKeeping(registry.Keeping{Grace: 24 * time.Hour, Lease: time.Hour})
		l.SetCaches([]registry.Cache{{Prefix: "hub", Keep: 10 * 24 * time.Hour}})
	}
	d = must[digest.Digest](t)(c.image("hub/a", []string{"v1"}, "", c.blob("hub/a", "layer")))
	c.pass(10*24*time.Hour + 61*time.Minute)
	return c, others, store, d
}

// TestCacheLease has a server tell a client of what is garbage in a cache: no other one
// collects it until the client had time to use it.
func TestCacheLease(t *testing.T) {
	for name, by := range map[string]func(digest.Digest) registry.Reference{
		"by tag":    func(digest.Digest) registry.Reference { return registry.Reference{Tag: "v1"} },
		"by digest": func(d digest.Digest) registry.Reference { return registry.Reference{Digest: d} },
	} {
		t.Run(name, func(t *testing.T) {
			c, others, store, d := cacheDue(t, true)
			collector := others[0]
			_ = must[registry.Descriptor](t)(c.StatManifest(t.Context(), "hub/a", by(d)))
			version := store.Version()
			for _, l := range []*registry.Local{c.Local, others[1]} { // the first one has written it for all
				_ = must[registry.Descriptor](t)(l.StatManifest(t.Context(), "hub/a", by(d)))
			}
			if store.Version() != version {
				t.Error("each question is written down")
			}
			for range 2 {
				collectAll(t, collector, true)
				collectAll(t, collector, false)
				if _, _, err := c.Manifest(t.Context(), "hub/a", by(d)); err != nil {
					t.Fatalf("after its client was told of it: %v", err)
				}
				c.pass(25 * time.Minute)
			}
			c.pass(15 * time.Minute)
			collectAll(t, collector, false)
			if _, _, err := c.Manifest(t.Context(), "hub/a", by(d)); !errors.Is(err, registry.ErrManifestUnknown) {
				t.Errorf("when the lease has ended: %v", err)
			}
		})
	}
}

// TestCacheLeaseAlone checks that a server which is alone writes nothing when it is asked
// for what a cache has.
func TestCacheLeaseAlone(t *testing.T) {
	c, _, store, d := cacheDue(t, false)
	version := store.Version()
	_ = must[registry.Descriptor](t)(c.StatManifest(t.Context(), "hub/a", registry.Reference{Digest: d}))
	if store.Version() != version {
		t.Error("it is written down who was told")
	}
	if removed := collectAll(t, c.Local, true); len(removed) > 0 {
		t.Errorf("removed %v, which a client was told of", removed)
	}
}
