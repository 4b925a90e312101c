package mirror_test

import (
	"net/http"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

func TestDamaged(t *testing.T) {
	u := newTheirs(t)
	a := push(t, u, "app", "v1", 1, 300_000)
	hurt := func(t *testing.T, o *ours, d digest.Digest, fn func(path string) error) {
		t.Helper()
		path := blobPath(t, o.dir, d)
		if err := fn(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, fn := range map[string]func(path string) error{
		"missing":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 50) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOurs(t, u)
			hasBlobs(t, o, "hub/app", a)
			o.settled(t)
			hurt(t, o, a.layer(), fn)
			hasBlobs(t, o, "hub/app", a)
			o.settled(t)
			hasBlobs(t, o.cache, "hub/app", a)
		})
	}
	t.Run("manifest", func(t *testing.T) {
		o := newOurs(t, u)
		has(t, o, "hub/app", tagged("v1"), a)
		hurt(t, o, a.desc.Digest, os.Remove)
		o.restart(t, u) // as the cache has manifests in memory, too
		has(t, o, "hub/app", tagged("v1"), a)
		has(t, o, "hub/app", digested(a.desc.Digest), a)
		has(t, o.cache, "hub/app", tagged("v1"), a)
	})
}

func TestRefetch(t *testing.T) {
	u := newTheirs(t)
	o := newOurs(t, u)
	a := push(t, u, "app", "v1", 1, 300_000)
	has(t, o, "hub/app", tagged("v1"), a)
	hasBlobs(t, o, "hub/app", a)
	o.settled(t)
	repos := func(repos ...string) func(func(string) bool) {
		return func(yield func(string) bool) {
			for _, r := range repos {
				if !yield(r) {
					return
				}
			}
		}
	}
	for _, d := range []digest.Digest{a.layer(), a.desc.Digest} {
		if marked, err := o.cache.Suspect(t.Context(), d, storage.DamageMissing); err != nil || !marked {
			t.Fatalf("%v, %v", marked, err)
		}
		if err := os.Remove(blobPath(t, o.dir, d)); err != nil {
			t.Fatal(err)
		}
		if err := o.cache.Settle(t.Context(), d, storage.DamageMissing, false); err != nil {
			t.Fatal(err)
		}
		if err := o.Refetch(t.Context(), d, repos("mine", "hub/none", "hub/app")); err != nil {
			t.Errorf("refetch %s: %v", d, err)
		}
		if blob, ok, err := o.cache.StoredBlob(t.Context(), d); err != nil || !ok || blob.Damaged {
			t.Errorf("%v, %v, %v", blob, ok, err)
		}
	}
	hasBlobs(t, o.cache, "hub/app", a)
	has(t, o.cache, "hub/app", tagged("v1"), a)
	is(t, "of no mirror", o.Refetch(t.Context(), a.layer(), repos("mine")), registry.ErrBlobUnknown)
	u.down(http.StatusInternalServerError)
	is(t, "while the upstream is down", o.Refetch(t.Context(), a.layer(), repos("hub/app")), registry.ErrUnavailable)
}
