package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// collected is a registry whose time a test moves.
type collected struct {
	*registry.Local
	*clock
	t     *testing.T
	blobs storage.Blobs
	meta  storage.Meta
}

func newCollected(t *testing.T) *collected {
	t.Helper()
	return newCollectedOn(t, mem.NewBlobs())
}

func newCollectedOn(t *testing.T, blobs storage.Blobs) *collected {
	t.Helper()
	c := &collected{clock: &clock{now: time.Unix(1e9, 0)}, t: t, blobs: blobs, meta: mem.NewMeta()}
	var err error
	c.Local, err = registry.NewLocal(t.Context(), c.blobs, c.meta, registry.Options{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.SetKeeping(registry.Keeping{Grace: 24 * time.Hour, Lease: time.Hour})
	return c
}

func (c *collected) blob(repo, text string) registry.Descriptor {
	c.t.Helper()
	d, err := c.PushBlob(c.t.Context(), repo, digest.FromString(text), strings.NewReader(text))
	if err != nil {
		c.t.Fatal(err)
	}
	d.MediaType = "application/octet-stream"
	return d
}

// image pushes a manifest with layers that are there.
func (c *collected) image(repo string, tags []string, subject digest.Digest, layers ...registry.Descriptor) (digest.Digest, error) {
	c.t.Helper()
	config := c.blob(repo, "{}")
	var list []string
	for _, l := range layers {
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, l.MediaType, l.Digest, l.Size))
	}
	refers := ""
	if subject != "" {
		refers = fmt.Sprintf(`,"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":1}`, subject)
	}
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[%s]%s}`,
		config.Digest, strings.Join(list, ","), refers)
	return c.push(repo, tags, data)
}

func (c *collected) index(repo string, tags []string, children ...digest.Digest) (digest.Digest, error) {
	c.t.Helper()
	var list []string
	for _, d := range children {
		desc, err := c.StatManifest(c.t.Context(), repo, registry.Reference{Digest: d})
		if err != nil {
			return "", err
		}
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, desc.MediaType, d, desc.Size))
	}
	return c.push(repo, tags, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}`, strings.Join(list, ",")))
}

func (c *collected) push(repo string, tags []string, data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	_, err := c.PushManifest(c.t.Context(), repo, registry.ManifestPush{Data: data, Digest: d, Tags: tags})
	return d, err
}

// collect collects, and returns how many manifests, links and bytes went.
func (c *collected) collect(all bool) (counts [3]int) {
	c.t.Helper()
	planned, err := c.Plan(c.t.Context(), all)
	if err != nil {
		c.t.Fatal(err)
	}
	removed := 0
	if err := c.Collect(c.t.Context(), all, func(done registry.Collected) {
		for _, g := range done.Removed {
			counts[g.Kind-1]++
			removed++
		}
	}); err != nil {
		c.t.Fatal(err)
	}
	if len(planned) != removed {
		c.t.Errorf("%d were planned to go, and %d went", len(planned), removed)
	}
	return counts
}

func (c *collected) has(repo string, d digest.Digest) bool {
	c.t.Helper()
	_, _, err := c.Manifest(c.t.Context(), repo, registry.Reference{Digest: d})
	if err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
		c.t.Fatal(err)
	}
	return err == nil
}

// all collects until nothing is left to wait for.
func (c *collected) rest() (counts [3]int) {
	for range 10 {
		c.pass(48 * time.Hour)
		for i, n := range c.collect(false) {
			counts[i] += n
		}
	}
	return counts
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestCollect follows an image from its push to its end.
func TestCollect(t *testing.T) {
	c := newCollected(t)
	d := must[digest.Digest](t)(c.image("a", []string{"v1"}, "", c.blob("a", "one"), c.blob("a", "two")))
	signature := must[digest.Digest](t)(c.image("a", nil, d, c.blob("a", "signature")))
	if got := c.rest(); got != [3]int{} {
		t.Fatalf("%v went of what a tag reaches", got)
	}
	if err := c.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	c.pass(23 * time.Hour)
	if got := c.collect(false); got != [3]int{} {
		t.Errorf("%v went within the grace period", got)
	}
	c.pass(4 * time.Hour)
	if got := c.collect(false); got != [3]int{1, 0, 0} || c.has("a", d) {
		t.Errorf("%v went after it, want the image", got)
	}
	if got := c.rest(); got != [3]int{1, 4, 6} || c.has("a", signature) { // {} is of both
		t.Errorf("%v went with it, want its signature, 4 blobs of the repository and 6 in the store", got)
	}
	stats := must[registry.Stats](t)(c.Stats(t.Context()))
	if stats != (registry.Stats{}) {
		t.Errorf("left: %+v", stats)
	}
}

// TestCollectIndex keeps the images of an index that a tag names, and lets them go
// with it.
func TestCollectIndex(t *testing.T) {
	c := newCollected(t)
	one := must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", "one")))
	two := must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", "two")))
	index := must[digest.Digest](t)(c.index("a", []string{"v1"}, one, two))
	if got := c.rest(); got != [3]int{} || !c.has("a", one) || !c.has("a", two) {
		t.Fatalf("%v went of what a tag reaches", got)
	}
	must[digest.Digest](t)(c.image("a", []string{"v1"}, "", c.blob("a", "three"))) // the tag moves on
	if got := c.rest(); got[0] != 3 || c.has("a", index) || c.has("a", one) {
		t.Errorf("%v went, want 3 manifests", got)
	}
}

// TestCollectHistory keeps what a tag has named for a while, and what a node runs.
func TestCollectHistory(t *testing.T) {
	c := newCollected(t)
	c.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Minute, History: 30 * 24 * time.Hour, Moves: 1})
	var all []digest.Digest
	for i := range 3 {
		all = append(all, must[digest.Digest](t)(c.image("a", []string{"latest"}, "", c.blob("a", fmt.Sprint(i)))))
	}
	c.rest() // 20 days
	for i, d := range all {
		if !c.has("a", d) {
			t.Errorf("image %d went within 30 days", i)
		}
	}
	c.rest()
	if c.has("a", all[0]) || !c.has("a", all[1]) || !c.has("a", all[2]) {
		t.Error("after 30 days only the last before the present one is kept")
	}
	c.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Minute})
	c.rest()
	if c.has("a", all[1]) {
		t.Error("the history goes on keeping")
	}
}

// TestPushDuringCollection is the race that loses layers elsewhere: what is pushed,
// or was told to be there, is collected before the manifest comes.
func TestPushDuringCollection(t *testing.T) {
	c := newCollected(t)
	layer := c.blob("a", "layer")
	if got := c.collect(true); got != [3]int{} {
		t.Errorf("%v went of a push that is under way", got)
	}
	if _, err := c.image("a", []string{"v1"}, "", layer); err != nil {
		t.Fatal(err)
	}

	// The image goes, and its layer is about to: a client asks for it just then.
	if err := c.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	c.pass(27 * time.Hour)
	c.collect(false)
	if _, err := c.StatBlob(t.Context(), "a", layer.Digest); err != nil {
		t.Fatal(err)
	}
	c.pass(59 * time.Minute)
	c.collect(true)
	if _, err := c.image("a", []string{"v2"}, "", layer); err != nil {
		t.Fatalf("the layer went although a client was told that it is there: %v", err)
	}
	c.rest()
	if _, _, err := c.Blob(t.Context(), "a", layer.Digest); err != nil {
		t.Error(err)
	}
}

// slowDelete calls before, once, before it deletes bytes.
type slowDelete struct {
	storage.Blobs
	before func()
}

func (s *slowDelete) Delete(ctx context.Context, d digest.Digest) error {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Blobs.Delete(ctx, d)
}

// TestPushDuringDeletion pushes bytes again while they are deleted: they must not
// be deleted behind it.
func TestPushDuringDeletion(t *testing.T) {
	c := newCollected(t)
	slow := &slowDelete{Blobs: c.blobs}
	local, err := registry.NewLocal(t.Context(), slow, c.meta, registry.Options{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(local.Close)
	c.Local = local
	c.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Minute})
	layer := c.blob("a", "layer")
	c.pass(2 * time.Hour)
	var pushed sync.WaitGroup
	slow.before = func() {
		if _, err := c.StatBlob(t.Context(), "a", layer.Digest); !errors.Is(err, registry.ErrBlobUnknown) {
			t.Errorf("while its bytes are deleted, the blob is %v", err)
		}
		done := make(chan struct{})
		pushed.Go(func() {
			defer close(done)
			if _, err := c.PushBlob(t.Context(), "b", layer.Digest, strings.NewReader("layer")); err != nil {
				t.Errorf("pushed while it was deleted: %v", err)
			}
		})
		select { // it should not be done before the bytes are deleted
		case <-done:
		case <-time.After(50 * time.Millisecond):
		}
	}
	for range 3 {
		if err := c.Collect(t.Context(), true, nil); err != nil {
			t.Fatal(err)
		}
	}
	pushed.Wait()
	f, _, err := c.Blob(t.Context(), "b", layer.Digest)
	if err != nil {
		t.Fatalf("the bytes went although they were pushed: %v", err)
	}
	_ = f.Close()
}
