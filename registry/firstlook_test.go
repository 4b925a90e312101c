package registry_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
)

// untar unpacks an archive of plain files.
func untar(t *testing.T, path, dir string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.FileInfo().IsDir() {
			err = os.MkdirAll(name, 0o700)
		} else {
			var data []byte
			data, err = io.ReadAll(r)
			err = errors.Join(err, os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, data, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFirstLookOld takes over the data directory that a version without collection
// (commit 4033a1c) has written: in the repository app, the tag latest was moved twice,
// index names an index of it, gone was deleted, and a manifest was; a signature of
// latest and one of what was deleted are there; in other, a blob that no manifest needs.
func TestFirstLookOld(t *testing.T) {
	dir := t.TempDir()
	untar(t, "testdata/before-collection.tar.gz", dir)
	blobs, err := fs.Open(filepath.Join(dir, "data"), nil)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := bolt.Open(filepath.Join(dir, "data/meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	written := time.Date(2026, 11, 26, 18, 21, 30, 0, time.UTC)
	c := &collected{clock: &clock{now: written.Add(time.Hour)}, t: t, blobs: blobs, meta: meta}
	if c.Local, err = registry.NewLocal(t.Context(), blobs, meta, registry.Options{Now: c.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := errors.Join(blobs.Close(), meta.Close()); err != nil {
			t.Error(err)
		}
	})
	c.SetKeeping(registry.Keeping{Grace: 24 * time.Hour, Lease: time.Hour, History: 7 * 24 * time.Hour})
	if got := c.collect(true); got != [3]int{} {
		t.Fatalf("before the first look %v went", got)
	}
	for range 2 { // the second time it does nothing
		if err := c.FirstLook(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.collect(false); got != [3]int{} {
		t.Errorf("%v went within the grace period", got)
	}
	var sum [3]int
	pass := func(days int) {
		for range days {
			c.pass(24 * time.Hour)
			for i, n := range c.collect(false) {
				sum[i] += n
			}
		}
	}
	pass(5)
	if sum != [3]int{1, 3, 5} {
		t.Errorf("after 5 days %v went, want the orphaned signature, 3 blobs of repositories, and 5 in the store", sum)
	}
	pass(10)
	if sum != [3]int{4, 9, 14} {
		t.Errorf("after 15 days %v went, want what latest and gone have named, too", sum)
	}
	stats := must[registry.Stats](t)(c.Stats(t.Context()))
	if stats.Manifests != 3 || stats.Blobs != 6 {
		t.Errorf("left are %+v", stats)
	}
	for _, tag := range []string{"latest", "index"} {
		if _, _, err := c.Manifest(t.Context(), "app", registry.Reference{Tag: tag}); err != nil {
			t.Error(err)
		}
	}
}

// forgetWatches makes of a store what a version without collection would have written.
func forgetWatches(t *testing.T, meta storage.Meta) {
	t.Helper()
	if err := meta.Update(t.Context(), func(tx storage.Tx) error {
		return errors.Join(
			forgetRows(tx, storage.Manifests, func(m *storage.Manifest) bool { m.Watch = storage.Watch{}; return true }),
			forgetRows(tx, storage.Links, func(l *storage.Link) bool { l.Watch = storage.Watch{}; return true }),
			forgetRows(tx, storage.Stored, func(b *storage.Blob) bool { b.Watch = storage.Watch{}; return true }),
			forgetRows(tx, storage.Reviews, func(*storage.Review) bool { return false }),
			forgetRows(tx, storage.Past, func(*storage.Mark) bool { return false }))
	}); err != nil {
		t.Fatal(err)
	}
}

// forgetRows changes all rows of a table, or removes those of which change says so.
func forgetRows[V any](tx storage.Tx, table storage.Table[V], change func(*V) bool) error {
	rows := map[string]V{}
	for e, err := range table.Scan(tx, nil, nil) {
		if err != nil {
			return err
		}
		rows[string(e.Key)] = e.Value
	}
	for key, row := range rows {
		err := table.Delete(tx, []byte(key))
		if err == nil && change(&row) {
			err = table.Put(tx, []byte(key), row)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// flaky is metadata that fails every some updates.
type flaky struct {
	storage.Meta
	every, n atomic.Int64
}

var errFlaky = errors.New("failed for a test")

func (f *flaky) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if n, every := f.n.Add(1), f.every.Load(); every > 0 && n%every == 0 {
		return errFlaky
	}
	return f.Meta.Update(ctx, fn)
}

// TestFirstLookLarge looks at many rows, fails again and again, and goes on: it finds
// the same garbage as is found of a store that has kept account of it.
func TestFirstLookLarge(t *testing.T) {
	meta := &flaky{Meta: mem.NewMeta()}
	c := &collected{clock: &clock{now: time.Unix(1e9, 0)}, t: t, blobs: mem.NewBlobs(), meta: meta}
	var err error
	if c.Local, err = registry.NewLocal(t.Context(), c.blobs, meta, registry.Options{Now: c.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.SetKeeping(registry.Keeping{Grace: time.Hour, Lease: time.Minute, History: 24 * time.Hour})
	for i := range 1200 {
		tag, repo := fmt.Sprint("t", i%100), fmt.Sprint("repo", i%3)
		must[digest.Digest](t)(c.image(repo, []string{tag}, "", c.blob(repo, fmt.Sprint(i))))
		if i%4 == 0 {
			c.blob(repo, fmt.Sprint("never referenced ", i))
		}
		if i == 800 {
			c.pass(48 * time.Hour) // what was moved before has no history that counts
		}
	}
	for i := range 100 {
		_ = c.DeleteTag(t.Context(), "repo0", fmt.Sprint("t", i)) // not each is there
	}
	c.pass(2 * time.Hour)
	want := must[[]registry.Garbage](t)(c.Plan(t.Context(), true))
	if len(want) < 2400 {
		t.Fatalf("only %d are garbage", len(want))
	}
	forgetWatches(t, meta.Meta)
	if plan := must[[]registry.Garbage](t)(c.Plan(t.Context(), true)); len(plan) > 0 {
		t.Fatalf("%d are garbage of which nobody keeps account", len(plan))
	}
	failures := 0
	meta.every.Store(3)
	for ; ; failures++ {
		err := c.FirstLook(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, errFlaky) {
			t.Fatal(err)
		}
	}
	if failures < 5 {
		t.Errorf("it failed %d times", failures)
	}
	before := meta.n.Load()
	if err := c.FirstLook(t.Context()); err != nil || meta.n.Load() != before {
		t.Errorf("once done, it changes something, or fails: %v", err)
	}
	meta.every.Store(0)
	c.pass(2 * time.Hour)
	got := must[[]registry.Garbage](t)(c.Plan(t.Context(), true))
	seen := map[string]bool{}
	for _, g := range got {
		seen[fmt.Sprint(g.Kind, g.Repo, g.Digest)] = true
	}
	missing := 0
	for _, g := range want {
		if !seen[fmt.Sprint(g.Kind, g.Repo, g.Digest)] {
			missing++
		}
	}
	if missing > 0 || len(got) != len(want) {
		t.Errorf("it finds %d, and %d of %d that are garbage are missing", len(got), missing, len(want))
	}
}

// TestFirstLookKept has untagged manifests kept at first: when that ends, what was
// untagged before goes, too.
func TestFirstLookKept(t *testing.T) {
	c := newCollected(t)
	keeping := registry.Keeping{Grace: time.Hour, Lease: time.Minute, Untagged: true}
	c.SetKeeping(keeping)
	look := func() {
		t.Helper()
		if err := c.FirstLook(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	look()
	d := must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", "one")))
	c.rest()
	look()
	keeping.Untagged = false
	c.SetKeeping(keeping)
	look()
	if c.rest(); c.has("a", d) {
		t.Error("an untagged manifest stays")
	}
	keeping.Untagged = true
	c.SetKeeping(keeping)
	look()
	d = must[digest.Digest](t)(c.image("a", nil, "", c.blob("a", "two")))
	c.rest()
	keeping.Untagged = false
	c.SetKeeping(keeping)
	if c.rest(); !c.has("a", d) {
		t.Error("it goes although nobody has looked") // else the test shows nothing
	}
	look()
	if c.rest(); c.has("a", d) {
		t.Error("an untagged manifest stays")
	}
}
