package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
)

// sparse pushes a manifest whose references may be absent.
func sparse(t *testing.T, l *registry.Local, repo, data, mediaType string, tags ...string) digest.Digest {
	t.Helper()
	d := digest.FromString(data)
	_, err := l.PushManifest(t.Context(), repo, registry.ManifestPush{
		Data: []byte(data), MediaType: mediaType, Digest: d, Tags: tags, Sparse: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	typeImage = "application/vnd.oci.image.manifest.v1+json"
	typeIndex = "application/vnd.oci.image.index.v1+json"
)

func sparseImage(layer string) string {
	config := `{}`
	return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		digest.FromString(config), len(config), digest.FromString(layer), len(layer))
}

func sparseIndex(children ...string) string {
	var b bytes.Buffer
	for i, c := range children {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"mediaType":%q,"digest":%q,"size":%d}`, typeImage, digest.FromString(c), len(c))
	}
	return `{"schemaVersion":2,"manifests":[` + b.String() + `]}`
}

// TestSparse: manifests of a cache come before what they reference, and go whether or
// not that has ever come.
func TestSparse(t *testing.T) {
	c := newCollected(t)
	ctx, repo := t.Context(), "hub/app"
	came, never := sparseImage("a layer"), sparseImage("another layer")
	index := sparse(t, c.Local, repo, sparseIndex(came, never), typeIndex, "v1")
	child := sparse(t, c.Local, repo, came, typeImage)
	if _, err := c.PushBlob(ctx, repo, digest.FromString("a layer"), bytes.NewReader([]byte("a layer"))); err != nil {
		t.Fatal(err)
	}
	check := func(manifests int64) {
		t.Helper()
		counted := countRows(t, c.meta)
		usage, err := c.UsageOf(ctx, repo)
		if err != nil && manifests > 0 {
			t.Fatal(err)
		}
		if manifests > 0 && (usage != counted.repos[repo] || usage.Manifests != manifests) {
			t.Errorf("usage %v, counted %v, want %d manifests", usage, counted.repos[repo], manifests)
		}
		if manifests == 0 && !maps.Equal(counted.repos, map[string]registry.Usage{}) {
			t.Errorf("left %v", counted.repos)
		}
	}
	check(2)
	// What an index needs stays though it came later.
	c.pass(100 * 24 * time.Hour)
	if err := c.Collect(ctx, true, nil); err != nil {
		t.Fatal(err)
	}
	check(2)
	if _, err := c.StatBlob(ctx, repo, digest.FromString("a layer")); err != nil {
		t.Error(err)
	}
	if _, _, err := c.Manifest(ctx, repo, registry.Reference{Digest: digest.FromString(never)}); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("what never came: %v", err)
	}
	if err := c.DeleteManifest(ctx, repo, index); err != nil {
		t.Fatal(err)
	}
	check(1)
	c.pass(100 * 24 * time.Hour)
	if err := c.Collect(ctx, true, nil); err != nil {
		t.Fatal(err)
	}
	check(0)
	if _, err := c.StatManifest(ctx, repo, registry.Reference{Digest: child}); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Errorf("after its index went: %v", err)
	}
	if stats, err := c.Stats(ctx); err != nil || stats != (registry.Stats{}) {
		t.Errorf("left %+v, %v", stats, err)
	}
}

// TestRebuildSparse: a cache is made anew without what it does not have, and without
// what only others have.
func TestRebuildSparse(t *testing.T) {
	blobs, err := fs.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	c := newCollectedOn(t, blobs)
	ctx, repo, secret := t.Context(), "hub/app", []byte("a secret")
	if _, err := c.PushBlob(ctx, "mine", digest.FromBytes(secret), bytes.NewReader(secret)); err != nil {
		t.Fatal(err)
	}
	image, never := sparseImage("a secret"), sparseImage("another layer")
	index := sparse(t, c.Local, repo, sparseIndex(image, never), typeIndex, "v1")
	child := sparse(t, c.Local, repo, image, typeImage)
	if _, err := c.Snapshot(ctx, blobs); err != nil {
		t.Fatal(err)
	}
	anew := newLocal(t, blobs, mem.NewMeta())
	err = anew.Rebuild(ctx, blobs, func(r registry.Rebuilt) {
		if r.Repo != repo || r.Manifests != 2 || r.Tags != 1 || r.Problems != nil {
			t.Errorf("rebuilt %+v", r)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []registry.Reference{{Tag: "v1"}, {Digest: index}, {Digest: child}} {
		if _, err := anew.StatManifest(ctx, repo, ref); err != nil {
			t.Error(err)
		}
	}
	if _, err := anew.StatBlob(ctx, repo, digest.FromBytes(secret)); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("what another repository had: %v", err)
	}
	// It is as sparse as before.
	if _, err := anew.Snapshot(ctx, blobs); err != nil {
		t.Fatal(err)
	}
	again := newLocal(t, blobs, mem.NewMeta())
	if err := again.Rebuild(ctx, blobs, func(r registry.Rebuilt) {
		if r.Problems != nil {
			t.Errorf("rebuilt again: %v", r.Problems)
		}
	}); err != nil {
		t.Fatal(err)
	}
}
