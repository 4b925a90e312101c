package registry_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// servers are two registries over one store, A with hooks.
func servers(t *testing.T) (a, b *collected, h *hooked) {
	t.Helper()
	h = &hooked{Blobs: mem.NewBlobs()}
	a = newCollectedOn(t, h)
	b = &collected{clock: a.clock, t: t, blobs: h.Blobs, meta: a.meta}
	b.again()
	return a, b, h
}

// TestCollectedElsewhereWhilePushed has the last that needs some bytes go, and another
// server collect, between the moment at which a push has stored the same bytes and that
// at which it makes them known: with the bytes known before, and brought and removed by
// that server meanwhile.
func TestCollectedElsewhereWhilePushed(t *testing.T) {
	for way, push := range pushes {
		for _, known := range []bool{true, false} {
			t.Run(way, func(t *testing.T) {
				a, b, h := servers(t)
				bring := func() digest.Digest { return must[digest.Digest](t)(b.push("a", []string{"v1"}, []byte(lonely))) }
				if known {
					bring()
					a.pass(48 * time.Hour) // no lease of that time holds
				}
				h.committed = func(digest.Digest) {
					if err := b.DeleteManifest(t.Context(), "a", bring()); err != nil {
						t.Error(err)
					}
					b.collects()
				}
				if err := push(a, lonely); err != nil {
					t.Fatal(err)
				}
				a.readable(way)
			})
		}
	}
}

// TestNeededNoMoreElsewhere is the same where another push of the same bytes has made
// them needed meanwhile, so that no review of them was queued any more, and then that is
// taken back.
func TestNeededNoMoreElsewhere(t *testing.T) {
	for way, push := range pushes {
		t.Run(way, func(t *testing.T) {
			a, b, h := servers(t)
			layer := b.blob("a", lonely)
			if err := b.DeleteBlob(t.Context(), "a", layer.Digest); err != nil {
				t.Fatal(err)
			}
			a.pass(2 * time.Hour) // a review is queued, and nothing has a lease
			h.committed = func(d digest.Digest) {
				b.blob("a", lonely)
				if err := b.DeleteBlob(t.Context(), "a", d); err != nil {
					t.Error(err)
				}
				b.collects()
			}
			if err := push(a, lonely); err != nil {
				t.Fatal(err)
			}
			a.readable(way)
		})
	}
}

// TestStoredTooLate stores bytes for longer than a lease: they are not made known if they
// went meanwhile, and are if they are there.
func TestStoredTooLate(t *testing.T) {
	for way, push := range pushes {
		for _, gone := range []bool{true, false} {
			t.Run(way, func(t *testing.T) {
				a, b, h := servers(t)
				h.committed = func(digest.Digest) {
					d := must[digest.Digest](t)(b.push("a", []string{"v1"}, []byte(lonely)))
					a.pass(2 * time.Hour)
					if !gone {
						return
					}
					if err := b.DeleteManifest(t.Context(), "a", d); err != nil {
						t.Error(err)
					}
					b.collects()
				}
				err := push(a, lonely)
				if !gone && err != nil {
					t.Fatal(err)
				}
				if gone && !errors.Is(err, registry.ErrUnavailable) {
					t.Errorf("pushed although the bytes are gone: %v", err)
				}
				if err == nil {
					a.readable(way)
				}
			})
		}
	}
}

// TestToldElsewhere has a client told of content by one server in each way, and another
// server remove all that needed it and collect at once: the client can use it, for half
// of a lease.
func TestToldElsewhere(t *testing.T) {
	for way, ask := range map[string]func(*collected, registry.Descriptor) error{
		"asks": func(a *collected, layer registry.Descriptor) error {
			_, err := a.StatBlob(a.t.Context(), "a", layer.Digest)
			return err
		},
		"pushes": func(a *collected, layer registry.Descriptor) error {
			_, err := a.PushBlob(a.t.Context(), "a", layer.Digest, strings.NewReader("layer"))
			return err
		},
		"mounts": func(a *collected, layer registry.Descriptor) error {
			_, err := a.MountBlob(a.t.Context(), "a", "", layer.Digest)
			return err
		},
	} {
		t.Run(way, func(t *testing.T) {
			a, b, _ := servers(t)
			layer := b.blob("a", "layer")
			image := must[digest.Digest](t)(b.image("a", []string{"v1"}, "", layer))
			a.pass(48 * time.Hour)
			if err := ask(a, layer); err != nil {
				t.Fatal(err)
			}
			again := must[digest.Digest](t)(b.image("a", []string{"v2"}, image, layer)) // needs it, too
			for _, d := range []digest.Digest{again, image} {
				if err := b.DeleteManifest(t.Context(), "a", d); err != nil {
					t.Fatal(err)
				}
			}
			a.pass(29 * time.Minute)
			b.collects()
			config := a.blob("a", "{}")
			if _, err := a.image("a", []string{"v3"}, "", layer); err != nil {
				t.Errorf("what the client was told of, and %s: %v", config.Digest, err)
			}
		})
	}
}

// TestToldOfManifestElsewhere is the same for a manifest that an index is to name.
func TestToldOfManifestElsewhere(t *testing.T) {
	for way, ask := range map[string]func(*collected, digest.Digest) error{
		"asks": func(a *collected, d digest.Digest) error {
			_, err := a.StatManifest(a.t.Context(), "a", registry.Reference{Digest: d})
			return err
		},
		"pushes": func(a *collected, _ digest.Digest) error {
			_, err := a.push("a", []string{"v1"}, []byte(lonely))
			return err
		},
	} {
		t.Run(way, func(t *testing.T) {
			a, b, _ := servers(t)
			image := must[digest.Digest](t)(b.push("a", []string{"v1"}, []byte(lonely)))
			a.pass(48 * time.Hour)
			if err := ask(a, image); err != nil {
				t.Fatal(err)
			}
			if err := b.DeleteTag(t.Context(), "a", "v1"); err != nil {
				t.Fatal(err)
			}
			a.pass(29 * time.Minute)
			b.collects()
			if !a.has("a", image) {
				t.Error("the manifest went that the client was told of")
			}
			a.pass(2 * time.Hour)
			b.collects()
			if a.has("a", image) {
				t.Error("the manifest stays for ever")
			}
		})
	}
}

// TestAskedOften writes one lease in half of its time, whoever asks how often.
func TestAskedOften(t *testing.T) {
	a, b, _ := servers(t)
	layer := b.blob("a", "layer")
	must[digest.Digest](t)(b.image("a", []string{"v1"}, "", layer))
	a.pass(48 * time.Hour)
	counted := &counting{Meta: a.meta}
	var all []*registry.Local
	for range 2 {
		l := must[*registry.Local](t)(registry.NewLocal(t.Context(), a.blobs, counted, registry.Options{Now: a.Now}))
		t.Cleanup(l.Close)
		l.SetKeeping(registry.Keeping{Grace: 24 * time.Hour, Lease: time.Hour})
		all = append(all, l)
	}
	counted.n.Store(0)
	for range 60 {
		for _, l := range all {
			if _, err := l.StatBlob(t.Context(), "a", layer.Digest); err != nil {
				t.Fatal(err)
			}
			if _, err := l.StatManifest(t.Context(), "a", registry.Reference{Tag: "v1"}); err != nil {
				t.Fatal(err)
			}
		}
		a.pass(time.Minute)
	}
	if n := counted.n.Load(); n > 2*3 {
		t.Errorf("%d leases were written of two rows in an hour", n)
	}
}

// TestHeldElsewhere keeps bytes while another server needs them, until it lets go, or has
// been dead for a while.
func TestHeldElsewhere(t *testing.T) {
	a, b, _ := servers(t)
	layer := a.blob("a", "layer")
	release := must[func()](t)(a.HoldCollection(t.Context()))
	a.pass(48 * time.Hour)
	b.collects()
	if _, err := a.blobs.Size(t.Context(), layer.Digest); err != nil {
		t.Fatalf("another server holds the collection: %v", err)
	}
	release()
	if err := a.meta.Update(t.Context(), func(tx storage.Tx) error { // of a process that has died, a little ago
		return storage.Holds.Put(tx, storage.Key("dead"), storage.Hold{Until: time.Now().Add(-10 * time.Second)})
	}); err != nil {
		t.Fatal(err)
	}
	b.collects()
	if _, err := a.blobs.Size(t.Context(), layer.Digest); err != nil {
		t.Fatalf("the clock of who holds it may be behind: %v", err)
	}
	if err := a.meta.Update(t.Context(), func(tx storage.Tx) error {
		return storage.Holds.Put(tx, storage.Key("dead"), storage.Hold{Until: time.Now().Add(-time.Minute)})
	}); err != nil {
		t.Fatal(err)
	}
	b.collects()
	if _, err := a.blobs.Size(t.Context(), layer.Digest); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("nobody holds it: %v", err)
	}
	if err := a.meta.View(t.Context(), func(tx storage.Tx) error {
		for e, err := range storage.Holds.Scan(tx, nil, nil) {
			t.Errorf("left is %q, %v", e.Key, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestHoldFails tells who cannot hold the collection.
func TestHoldFails(t *testing.T) {
	a, _, _ := servers(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.HoldCollection(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("held: %v", err)
	}
	a.blob("a", "layer")
	a.pass(48 * time.Hour)
	a.collects()
	if stats := must[registry.Stats](t)(a.Stats(t.Context())); stats != (registry.Stats{}) {
		t.Errorf("it is held all the same: %+v", stats)
	}
}

// TestMovedByOne leaves damaged bytes to the server that moves them away, until that has
// been at it for too long.
func TestMovedByOne(t *testing.T) {
	a, b, _ := servers(t)
	d := a.blob("a", "layer").Digest
	suspect := func(c *collected) bool {
		t.Helper()
		return must[bool](t)(c.Suspect(t.Context(), d, storage.DamageDigest))
	}
	moves := func(c *collected) bool {
		t.Helper()
		_, ok, err := c.Moves(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	moving := func() (row storage.Damage, there bool) {
		t.Helper()
		if err := a.meta.View(t.Context(), func(tx storage.Tx) (err error) {
			row, err = storage.Damages.Get(tx, storage.Key(storage.DigestPart(d)))
			if there = err == nil; errors.Is(err, storage.ErrNotFound) {
				err = nil
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return row, there
	}
	if first, again := suspect(a), suspect(a); !first || !again || !moves(a) {
		t.Fatal("a does not move what it suspects")
	}
	if suspect(b) || moves(b) {
		t.Error("b moves what a moves")
	}
	if err := errors.Join(b.Sound(t.Context(), d), b.Settle(t.Context(), d, storage.DamageSize, true)); err != nil {
		t.Fatal(err)
	}
	if row, there := moving(); !there || !row.Moving {
		t.Error("b has settled what a moves")
	}
	a.pass(20 * time.Minute)
	if !suspect(b) || !moves(b) || moves(a) {
		t.Error("b does not go on after a while, or a does")
	}
	if err := errors.Join(a.Settle(t.Context(), d, storage.DamageSize, true), a.Sound(t.Context(), d)); err != nil {
		t.Fatal(err)
	}
	if row, there := moving(); !there || !row.Moving {
		t.Error("a has settled what b moves")
	}
	if err := b.Settle(t.Context(), d, storage.DamageDigest, true); err != nil {
		t.Fatal(err)
	}
	if row, there := moving(); !there || row.Moving || row.Mover != "" || suspect(a) {
		t.Errorf("b has moved it: %+v", row)
	}
	if err := a.Sound(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, there := moving(); there {
		t.Error("it is sound")
	}
}

// counting counts transactions that write.
type counting struct {
	storage.Meta
	n atomic.Int64
}

func (c *counting) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return c.Meta.Update(ctx, func(tx storage.Tx) error {
		o := storage.Overlay(tx)
		if err := fn(o); err != nil {
			return err
		}
		for w := range o.Written() {
			if w.Table == storage.Links.Name() || w.Table == storage.Manifests.Name() {
				c.n.Add(1)
			}
			if w.Gone {
				if err := tx.Delete(w.Table, w.Key); err != nil {
					return err
				}
			} else if err := tx.Put(w.Table, w.Key, w.Value); err != nil {
				return err
			}
		}
		return nil
	})
}
