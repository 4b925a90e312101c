package registry_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// While collection is held, bytes stay that nothing needs, and their reviews stay
// queued; once nobody holds it, they go.
func TestHoldCollection(t *testing.T) {
	c := newCollected(t)
	ctx := t.Context()
	d := c.blob("a", "some bytes")
	first := must[func()](t)(c.HoldCollection(ctx))
	second := must[func()](t)(c.HoldCollection(ctx))
	c.pass(48 * time.Hour)
	collect := func() (kinds []storage.ReviewKind) {
		t.Helper()
		if err := c.Collect(ctx, true, func(done registry.Collected) {
			for _, g := range done.Removed {
				kinds = append(kinds, g.Kind)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return kinds
	}
	if got := collect(); len(got) != 1 || got[0] != storage.ReviewLink {
		t.Errorf("collected %v while it was held, want the link alone", got)
	}
	first()
	first() // counts once
	if got := collect(); len(got) != 0 {
		t.Errorf("collected %v while somebody else held it", got)
	}
	if _, err := c.blobs.Size(ctx, d.Digest); err != nil {
		t.Error(err)
	}
	if q, err := c.Queue(ctx, 10); err != nil || q.Reviews != 1 {
		t.Errorf("queued is %+v, %v, want the review of the bytes", q, err)
	}
	second()
	if got := collect(); len(got) != 1 || got[0] != storage.ReviewBlob {
		t.Errorf("collected %v when nobody held it any more", got)
	}
	if _, err := c.blobs.Size(ctx, d.Digest); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the bytes: %v", err)
	}
}
