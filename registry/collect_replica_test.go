package registry_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// watchedDeletes calls a function before each deletion of bytes.
type watchedDeletes struct {
	storage.Blobs
	before func(digest.Digest) error
}

func (w *watchedDeletes) Delete(ctx context.Context, d digest.Digest) error {
	if err := w.before(d); err != nil {
		return err
	}
	return w.Blobs.Delete(ctx, d)
}

// replica makes another registry over the same stores, as another process has it.
func (c *collected) replica(before func(digest.Digest) error) *registry.Local {
	c.t.Helper()
	l, err := registry.NewLocal(c.t.Context(), &watchedDeletes{c.blobs, before}, c.meta, registry.Options{Now: c.Now})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(l.Close)
	l.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Minute})
	return l
}

func collectAll(t *testing.T, l *registry.Local, all bool) (removed []registry.Garbage) {
	t.Helper()
	if err := l.Collect(t.Context(), all, func(c registry.Collected) { removed = append(removed, c.Removed...) }); err != nil {
		t.Error(err)
	}
	return removed
}

// Of two processes one deletes the bytes; the other leaves them alone, or it would
// delete what was pushed meanwhile.
func TestReplicasDeleteOnce(t *testing.T) {
	c := newCollected(t)
	layer := c.blob("a", "layer")
	c.pass(30 * time.Hour)
	other := c.replica(func(d digest.Digest) error {
		t.Errorf("the other process deletes %s, too", d)
		return nil
	})
	deletes := 0
	one := c.replica(func(digest.Digest) error {
		deletes++
		for _, all := range []bool{true, false} {
			if removed := collectAll(t, other, all); len(removed) > 0 {
				t.Errorf("removed by the other: %v", removed)
			}
		}
		return nil
	})
	if removed := collectAll(t, one, true); len(removed) != 2 || deletes != 1 {
		t.Errorf("removed %v in %d deletions", removed, deletes)
	}
	if _, err := other.PushBlob(t.Context(), "a", layer.Digest, strings.NewReader("layer")); err != nil {
		t.Error(err)
	}
	c.pass(time.Minute)
	collectAll(t, other, false)
	c.needs(true, layer)
	if stats := must[registry.Stats](t)(c.Stats(t.Context())); stats.Blobs != 1 || stats.Bytes != layer.Size {
		t.Errorf("%+v", stats)
	}
}

// What a process leaves half done when it dies, another one does after a while.
func TestReplicaDies(t *testing.T) {
	c := newCollected(t)
	layer := c.blob("a", "layer")
	c.pass(30 * time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	dying := c.replica(func(digest.Digest) error { cancel(); return ctx.Err() })
	if err := dying.Collect(ctx, true, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	deletes := 0
	other := c.replica(func(digest.Digest) error { deletes++; return nil })
	collectAll(t, other, true)
	if deletes != 0 {
		t.Error("another process takes what the first may still be at")
	}
	if _, _, err := other.Blob(t.Context(), "a", layer.Digest); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("what is being deleted: %v", err)
	}
	c.pass(16 * time.Minute)
	if removed := collectAll(t, other, false); deletes != 1 || len(removed) != 1 {
		t.Errorf("%d deletions, removed %v", deletes, removed)
	}
	if stats := must[registry.Stats](t)(c.Stats(t.Context())); stats != (registry.Stats{}) {
		t.Errorf("left: %+v", stats)
	}
}

// Bytes that cannot be deleted are tried again, later each time, by whoever comes.
func TestReplicasTryAgain(t *testing.T) {
	c := newCollected(t)
	c.blob("a", "layer")
	c.pass(30 * time.Hour)
	failing := true
	tries := 0
	before := func(digest.Digest) error {
		if tries++; failing {
			return storage.ErrReadOnly
		}
		return nil
	}
	replicas := []*registry.Local{c.replica(before), c.replica(before)}
	for i := range 60 {
		collectAll(t, replicas[i%2], false)
		c.pass(time.Minute)
	}
	if tries < 5 || tries > 8 {
		t.Errorf("%d tries in an hour", tries)
	}
	failing = false
	c.pass(2 * time.Hour)
	collectAll(t, replicas[0], false)
	if stats := must[registry.Stats](t)(c.Stats(t.Context())); stats != (registry.Stats{}) {
		t.Errorf("left: %+v", stats)
	}
}

// Collections of one process that are started together run one after the other.
func TestCollectTakesTurns(t *testing.T) {
	c := newCollected(t)
	for i := range 300 {
		c.blob("a", strings.Repeat("x", i))
	}
	c.pass(30 * time.Hour)
	var mu sync.Mutex
	deleted := map[digest.Digest]int{}
	l := c.replica(func(d digest.Digest) error {
		mu.Lock()
		defer mu.Unlock()
		deleted[d]++
		return nil
	})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { collectAll(t, l, true) })
	}
	all.Wait()
	for d, n := range deleted {
		if n != 1 {
			t.Errorf("%s was deleted %d times", d, n)
		}
	}
	if len(deleted) != 300 {
		t.Errorf("%d were deleted", len(deleted))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Collect(ctx, true, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
