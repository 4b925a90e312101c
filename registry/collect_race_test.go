package registry_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
)

// hooked are blobs that call somebody at the worst moments, once each.
type hooked struct {
	storage.Blobs
	mu        sync.Mutex
	committed func(digest.Digest)       // when a stage has become a blob
	deleting  func(digest.Digest)       // before a blob is deleted
	delete    func(digest.Digest) error // in place of that; each time
	closed    func()                    // before a stage is closed; each time
	one       sync.Mutex                // held while delete runs: deletions come several at once
}

func (h *hooked) Delete(ctx context.Context, d digest.Digest) error {
	h.mu.Lock()
	deleting := h.deleting
	h.deleting = nil
	h.mu.Unlock()
	if deleting != nil {
		deleting(d)
	}
	if h.delete != nil {
		h.one.Lock()
		defer h.one.Unlock()
		return h.delete(d)
	}
	return h.Blobs.Delete(ctx, d)
}

func (h *hooked) Stage(ctx context.Context, id string, off int64) (storage.Stage, error) {
	s, err := h.Blobs.Stage(ctx, id, off)
	return &hookedStage{s, h}, err
}

type hookedStage struct {
	storage.Stage
	blobs *hooked
}

func (s *hookedStage) Close() error {
	if s.blobs.closed != nil {
		s.blobs.closed()
	}
	return s.Stage.Close()
}

func (s *hookedStage) Commit(d digest.Digest) error {
	err := s.Stage.Commit(d)
	s.blobs.mu.Lock()
	committed := s.blobs.committed
	s.blobs.committed = nil
	s.blobs.mu.Unlock()
	if committed != nil {
		committed(d)
	}
	return err
}

// mortal is metadata that stops to change when its process dies.
type mortal struct {
	storage.Meta
	storage.Versioner
	dead bool
}

var errDead = errors.New("the process is dead")

func (m *mortal) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if m.dead {
		return errDead
	}
	return m.Meta.Update(ctx, fn)
}

// onDiskHooked is a registry on disk that can be hooked into.
func onDiskHooked(t *testing.T) (*collected, *hooked, *mortal) {
	t.Helper()
	dir := t.TempDir()
	blobs := must[*fs.Blobs](t)(fs.Open(dir, nil))
	t.Cleanup(func() { _ = blobs.Close() })
	meta := must[*bolt.Meta](t)(bolt.Open(filepath.Join(dir, "meta.db")))
	t.Cleanup(func() { _ = meta.Close() })
	h, m := &hooked{Blobs: blobs}, &mortal{Meta: meta, Versioner: meta}
	c := &collected{clock: &clock{now: time.Unix(1e9, 0)}, t: t, blobs: h, meta: m}
	c.again()
	return c, h, m
}

// again opens the registry, as a new process does.
func (c *collected) again() {
	c.t.Helper()
	if c.Local != nil {
		c.Close()
	}
	c.Local = must[*registry.Local](c.t)(registry.NewLocal(c.t.Context(), c.blobs, c.meta, registry.Options{Now: c.Now}))
	c.t.Cleanup(c.Close)
	c.SetKeeping(registry.Keeping{Grace: 24 * time.Hour, Lease: time.Hour})
}

// collects removes all that can go, and fails the test if that fails.
func (c *collected) collects() {
	c.t.Helper()
	if err := c.Collect(c.t.Context(), true, nil); err != nil {
		c.t.Fatal(err)
	}
}

// pushes are the ways in which bytes come to repository b.
var pushes = map[string]func(c *collected, text string) error{
	"blob": func(c *collected, text string) error {
		_, err := c.PushBlob(c.t.Context(), "b", digest.FromString(text), strings.NewReader(text))
		return err
	},
	"upload": func(c *collected, text string) error {
		id, err := c.StartUpload(c.t.Context(), "b", digest.SHA256)
		if err == nil {
			_, err = c.WriteUpload(c.t.Context(), "b", id, registry.Chunk{}, strings.NewReader(text[:3]))
		}
		if err == nil {
			_, err = c.CommitUpload(c.t.Context(), "b", id, registry.Chunk{}, strings.NewReader(text[3:]), digest.FromString(text))
		}
		return err
	},
	"manifest": func(c *collected, text string) error {
		_, err := c.push("b", []string{"v1"}, []byte(text))
		return err
	},
}

// lonely is an index of nothing, which can be pushed as a blob, too.
const lonely = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// readable checks that what was pushed to repository b can be read.
func (c *collected) readable(way string) {
	c.t.Helper()
	c.collects()
	var err error
	if way == "manifest" {
		c.again() // what is in memory does not count
		_, _, err = c.Manifest(c.t.Context(), "b", registry.Reference{Tag: "v1"})
	} else {
		var f interface{ Close() error }
		if f, _, err = c.Blob(c.t.Context(), "b", digest.FromString(lonely)); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		c.t.Errorf("the bytes went although they were pushed: %v", err)
	}
}

// TestPushedAgainWhileDeleted pushes bytes in each way while they are deleted, behind
// their tombstone.
func TestPushedAgainWhileDeleted(t *testing.T) {
	for way, push := range pushes {
		t.Run(way, func(t *testing.T) {
			c, h, _ := onDiskHooked(t)
			c.blob("a", lonely)
			c.pass(2 * time.Hour)
			var pushed sync.WaitGroup
			stored := make(chan struct{})
			h.deleting = func(d digest.Digest) {
				if _, err := c.MountBlob(t.Context(), "b", "a", d); !errors.Is(err, registry.ErrBlobUnknown) {
					t.Errorf("mounted while it is deleted: %v", err)
				}
				if _, err := c.MountBlob(t.Context(), "b", "", d); !errors.Is(err, registry.ErrBlobUnknown) {
					t.Errorf("mounted from anywhere while it is deleted: %v", err)
				}
				pushed.Go(func() {
					if err := push(c, lonely); err != nil {
						t.Errorf("pushed while it is deleted: %v", err)
					}
				})
				select { // it should not come to store them before they are deleted
				case <-stored:
				case <-time.After(50 * time.Millisecond):
				}
			}
			h.committed = func(digest.Digest) { close(stored) }
			c.collects()
			pushed.Wait()
			if h.deleting != nil {
				t.Fatal("nothing was deleted")
			}
			c.readable(way)
		})
	}
}

// TestDeletedWhilePushed has the last that needs some bytes go, and collects, between
// the moment at which a push has stored the same bytes and that at which it makes them
// known.
func TestDeletedWhilePushed(t *testing.T) {
	for way, push := range pushes {
		t.Run(way, func(t *testing.T) {
			c, h, _ := onDiskHooked(t)
			d := must[digest.Digest](t)(c.push("a", []string{"v1"}, []byte(lonely)))
			h.committed = func(digest.Digest) {
				if err := c.DeleteManifest(t.Context(), "a", d); err != nil {
					t.Error(err)
				}
				c.collects()
			}
			if err := push(c, lonely); err != nil {
				t.Fatal(err)
			}
			c.readable(way)
		})
	}
}

// TestRefusedPushIsGarbage deletes what a manifest needs when its bytes are stored
// already: it is refused, and they do not stay.
func TestRefusedPushIsGarbage(t *testing.T) {
	c, h, _ := onDiskHooked(t)
	layer := c.blob("a", "layer")
	c.blob("a", "{}")
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":5}]}`,
		digest.FromString("{}"), layer.Digest)
	h.committed = func(digest.Digest) {
		if err := c.DeleteBlob(t.Context(), "a", layer.Digest); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.push("a", nil, data); !errors.Is(err, registry.ErrManifestBlobUnknown) {
		t.Fatalf("its layer was deleted: %v", err)
	}
	c.rest()
	for b, err := range c.blobs.List(t.Context(), "") {
		t.Errorf("left: %v, %v", b, err)
	}
}

// TestToldOfNeeded asks for content while something needs it, so that no review is
// queued of it, and then has it become garbage and collected at once: whoever asked
// can use it until the lease ends, and not longer.
func TestToldOfNeeded(t *testing.T) {
	for _, name := range []string{"memory", "disk"} {
		t.Run(name, func(t *testing.T) {
			c := newCollected(t)
			if name == "disk" {
				c, _, _ = onDiskHooked(t)
			}
			layer, other := c.blob("a", "layer"), c.blob("a", "other")
			image := must[digest.Digest](t)(c.image("a", []string{"v1"}, "", layer, other))
			c.blob("a", "{}") // no client relies on that
			child := must[digest.Digest](t)(c.image("a", []string{"v2"}, "", other))
			c.pass(48 * time.Hour)
			must[registry.Descriptor](t)(c.StatBlob(t.Context(), "a", layer.Digest))
			desc := must[registry.Descriptor](t)(c.StatManifest(t.Context(), "a", registry.Reference{Tag: "v2"}))
			for _, tag := range []string{"v1", "v2"} {
				if err := c.DeleteTag(t.Context(), "a", tag); err != nil {
					t.Fatal(err)
				}
			}
			c.pass(59 * time.Minute)
			c.collects()
			if c.has("a", image) {
				t.Error("what nobody asked for stays")
			}
			if _, err := c.image("a", []string{"v3"}, "", layer); err != nil {
				t.Errorf("a client was told that the layer is there: %v", err)
			}
			if _, err := c.push("a", []string{"v4"}, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
				desc.MediaType, child, desc.Size)); err != nil {
				t.Errorf("a client was told that the image is there: %v", err)
			}
			for _, tag := range []string{"v3", "v4"} {
				if err := c.DeleteTag(t.Context(), "a", tag); err != nil {
					t.Fatal(err)
				}
			}
			c.pass(61 * time.Minute)
			c.collects()
			if stats := must[registry.Stats](t)(c.Stats(t.Context())); stats != (registry.Stats{}) {
				t.Errorf("after the lease there is %+v", stats)
			}
		})
	}
}

// TestMountDuringCollection mounts a blob whose review is long due: it stays for the
// one who has mounted it.
func TestMountDuringCollection(t *testing.T) {
	c, _, _ := onDiskHooked(t)
	layer := c.blob("a", "layer")
	c.pass(48 * time.Hour)
	must[registry.Descriptor](t)(c.MountBlob(t.Context(), "b", "a", layer.Digest))
	c.pass(59 * time.Minute)
	c.collects()
	if _, err := c.StatBlob(t.Context(), "a", layer.Digest); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("nobody has asked for it where it was mounted from: %v", err)
	}
	if _, err := c.image("b", []string{"v1"}, "", layer); err != nil {
		t.Fatalf("the layer went although it was mounted: %v", err)
	}
}

// TestUntaggedThenIndex asks for an untagged image whose review is long due, and
// pushes an index of it.
func TestUntaggedThenIndex(t *testing.T) {
	c, _, _ := onDiskHooked(t)
	child := must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", "layer")))
	c.pass(48 * time.Hour)
	desc := must[registry.Descriptor](t)(c.StatManifest(t.Context(), "a", registry.Reference{Digest: child}))
	c.pass(59 * time.Minute)
	c.collects()
	if _, err := c.push("a", []string{"v1"}, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		desc.MediaType, child, desc.Size)); err != nil {
		t.Fatal(err)
	}
	if c.rest(); !c.has("a", child) {
		t.Error("the image of an index that has a tag is gone")
	}
}

// TestTwoCollectors has two processes collect the same at once, while the bytes are
// pushed again and again: each push that succeeds can be read.
func TestTwoCollectors(t *testing.T) {
	c := newCollected(t)
	other := &collected{clock: c.clock, t: t, blobs: c.blobs, meta: c.meta}
	other.again()
	for round := range 30 {
		for i := range 20 {
			c.blob("a", fmt.Sprint("blob ", i))
		}
		c.pass(2 * time.Hour)
		var all sync.WaitGroup
		for _, who := range []*collected{c, other} {
			all.Go(func() {
				if err := who.Collect(t.Context(), true, nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Go(func() {
			for i := range 20 {
				text := fmt.Sprint("blob ", i)
				if _, err := c.PushBlob(t.Context(), "b", digest.FromString(text), strings.NewReader(text)); err != nil {
					t.Errorf("round %d: push %s: %v", round, text, err)
				}
			}
		})
		all.Wait()
		for i := range 20 {
			f, _, err := other.Blob(t.Context(), "b", digest.FromString(fmt.Sprint("blob ", i)))
			if err != nil {
				t.Fatalf("round %d: blob %d: %v", round, i, err)
			}
			_ = f.Close()
		}
	}
}

// TestCrashOnTombstone kills the registry when the bytes of a tombstone are not
// deleted yet, or are deleted and their row is there: whoever pushes them after that
// waits until they are collected.
func TestCrashOnTombstone(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		for way, push := range pushes {
			t.Run(fmt.Sprintf("%s, deleted %t", way, deleted), func(t *testing.T) {
				c, h, m := onDiskHooked(t)
				if err := c.DeleteBlob(t.Context(), "a", c.blob("a", lonely).Digest); err != nil {
					t.Fatal(err) // its bytes are to be reviewed in a day, but we collect now
				}
				h.delete = func(d digest.Digest) error {
					m.dead = true
					if deleted {
						return h.Blobs.Delete(context.WithoutCancel(t.Context()), d)
					}
					return errDead
				}
				if err := c.Collect(t.Context(), true, nil); !errors.Is(err, errDead) {
					t.Fatalf("it should be dead: %v", err)
				}
				m.dead, h.delete = false, nil
				c.again()
				if _, err := c.StatBlob(t.Context(), "a", digest.FromString(lonely)); !errors.Is(err, registry.ErrBlobUnknown) {
					t.Errorf("the blob is %v", err)
				}
				done := make(chan error)
				go func() { done <- push(c, lonely) }()
				if err := c.Collect(t.Context(), false, nil); err != nil {
					t.Error(err)
				}
				if err := <-done; err != nil {
					t.Fatalf("pushed after the crash: %v", err)
				}
				c.readable(way)
				if stats := must[registry.Stats](t)(c.Stats(t.Context())); stats.Blobs != 1 || stats.Bytes != int64(len(lonely)) {
					t.Errorf("counted is %+v", stats)
				}
			})
		}
	}
}

// TestCollectAllEnds collects much that cannot be deleted, and much that stays: each
// is looked at once, however long it takes.
func TestCollectAllEnds(t *testing.T) {
	const many = 1500
	h := &hooked{Blobs: mem.NewBlobs()}
	now := &ticking{clock{now: time.Unix(1e9, 0)}}
	c := &collected{clock: &now.clock, t: t, blobs: h, meta: mem.NewMeta()}
	c.Local = must[*registry.Local](t)(registry.NewLocal(t.Context(), h, c.meta, registry.Options{Now: now.Now}))
	t.Cleanup(c.Close)
	c.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Minute, Moves: 1})
	for i := range many {
		c.blob("a", fmt.Sprint(i))
		must[digest.Digest](t)(c.push("b", []string{"v1"}, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"i":"%d"}}`, i)))
		if err := c.DeleteTag(t.Context(), "b", "v1"); err != nil {
			t.Fatal(err)
		}
		must[digest.Digest](t)(c.push("b", []string{fmt.Sprint("t", i)}, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"kept":"%d"}}`, i)))
		if err := c.DeleteTag(t.Context(), "b", fmt.Sprint("t", i)); err != nil {
			t.Fatal(err)
		}
	}
	c.pass(2 * time.Hour)
	tries := map[digest.Digest]int{}
	h.delete = func(d digest.Digest) error {
		tries[d]++
		return errors.New("no")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Collect(ctx, true, nil); err != nil {
		t.Fatal(err)
	}
	for d, n := range tries {
		if n != 1 {
			t.Errorf("%s was tried %d times", d, n)
		}
	}
	if got := must[registry.Stats](t)(c.Stats(t.Context())); len(tries) != 2*many-1 || got.Manifests != many+1 {
		t.Errorf("%d blobs were tried, %d manifests are there; want %d and %d", len(tries), got.Manifests, 2*many-1, many+1)
	}
}
