package caching_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
)

const day = 24 * time.Hour

var start = time.Unix(1_700_000_000, 0).UTC()

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

// world is a registry with caches, which a test fills as a mirror does.
type world struct {
	*registry.Local
	*clock
	t       testing.TB
	meta    storage.Meta
	pulls   *retention.Pulls
	served  registry.Registry // what clients pull from
	evictor *caching.Evictor
	changes []registry.Change
}

// Write and Done implement registry.Journal.
func (w *world) Write(context.Context, storage.Tx, []registry.Change) error { return nil }

func (w *world) Done(_ context.Context, changes []registry.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, changes...)
}

func newWorld(t testing.TB, meta storage.Meta, mirrors ...caching.Mirror) *world {
	t.Helper()
	w := &world{clock: &clock{now: start}, t: t, meta: meta}
	var err error
	if w.Local, err = registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{Now: w.Now, Journal: w}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	w.SetKeeping(registry.Keeping{Grace: day, Lease: time.Hour, History: 7 * day})
	w.pulls = retention.NewPulls(meta, retention.PullOptions{Now: w.Now})
	w.pulls.SetCached(w.Cached)
	w.served = w.pulls.Wrap(w.Local)
	w.evictor = caching.New(w.Local, caching.Options{Mirrors: mirrors, Pulls: w.pulls, Now: w.Now})
	return w
}

func openBolt(t testing.TB) storage.Meta {
	t.Helper()
	m, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// stores are those that tests run with.
func stores(t *testing.T, run func(t *testing.T, meta storage.Meta)) {
	t.Run("mem", func(t *testing.T) { run(t, mem.NewMeta()) })
	t.Run("bolt", func(t *testing.T) { run(t, openBolt(t)) })
}

func (w *world) fetchBlob(repo, text string) digest.Digest {
	w.t.Helper()
	d, err := w.PushBlob(w.t.Context(), repo, digest.FromString(text), strings.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Digest
}

// imageOf is an image of layers.
func imageOf(layers ...string) string {
	var list []string
	for _, l := range layers {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromString(l), len(l)))
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/b","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[%s]}`,
		digest.FromString("{}"), strings.Join(list, ","))
}

// indexOf is an index of images.
func indexOf(images ...string) string {
	var list []string
	for _, m := range images {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}`, digest.FromString(m), len(m)))
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}`, strings.Join(list, ","))
}

// fetchManifest stores a manifest as a mirror does: before what it references.
func (w *world) fetchManifest(repo, data string, tags ...string) digest.Digest {
	w.t.Helper()
	d := digest.FromString(data)
	if _, err := w.PushManifest(w.t.Context(), repo, registry.ManifestPush{Data: []byte(data), Digest: d, Tags: tags, Sparse: true}); err != nil {
		w.t.Fatal(err)
	}
	return d
}

// fetch stores an image with all its layers.
func (w *world) fetch(repo string, layers []string, tags ...string) digest.Digest {
	w.t.Helper()
	d := w.fetchManifest(repo, imageOf(layers...), tags...)
	for _, l := range append([]string{"{}"}, layers...) {
		w.fetchBlob(repo, l)
	}
	return d
}

func (w *world) pull(repo string, ref registry.Reference) {
	w.t.Helper()
	if _, _, err := w.served.Manifest(w.t.Context(), repo, ref); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pullBlob(repo string, d digest.Digest) {
	w.t.Helper()
	f, _, err := w.served.Blob(w.t.Context(), repo, d)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, f)
	if err := errors.Join(err, f.Close()); err != nil {
		w.t.Fatal(err)
	}
}

// collect collects what is due, and checks that it was planned.
func (w *world) collect() {
	w.t.Helper()
	if err := w.pulls.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	planned, err := w.Plan(w.t.Context(), false)
	if err != nil {
		w.t.Fatal(err)
	}
	removed := 0
	if err := w.Collect(w.t.Context(), false, func(c registry.Collected) { removed += len(c.Removed) }); err != nil {
		w.t.Fatal(err)
	}
	if removed != len(planned) {
		w.t.Errorf("%d went, and %d were planned to", removed, len(planned))
	}
}

// twice collects what is garbage, and what comes to be garbage by that.
func (w *world) twice() {
	w.t.Helper()
	w.collect()
	w.pass(2 * time.Hour)
	w.collect()
}

func (w *world) evict() {
	w.t.Helper()
	if err := w.evictor.Evict(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) has(repo string, d digest.Digest) bool {
	w.t.Helper()
	_, _, err := w.Manifest(w.t.Context(), repo, registry.Reference{Digest: d})
	if err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
		w.t.Fatal(err)
	}
	return err == nil
}

func (w *world) hasBlob(repo string, d digest.Digest) bool {
	w.t.Helper()
	f, _, err := w.Blob(w.t.Context(), repo, d)
	if err == nil {
		return f.Close() == nil
	}
	if !errors.Is(err, registry.ErrBlobUnknown) {
		w.t.Fatal(err)
	}
	return false
}

// want fails unless those of manifests are there that should be.
func (w *world) want(what, repo string, want []digest.Digest, not ...digest.Digest) {
	w.t.Helper()
	for _, d := range append(slices.Clone(want), not...) {
		if has := w.has(repo, d); has != slices.Contains(want, d) {
			w.t.Errorf("%s: %s is there: %v", what, d, has)
		}
	}
}

func (w *world) usage(prefix string) int64 {
	w.t.Helper()
	bytes, _, err := w.evictor.Usage(w.t.Context(), prefix)
	if err != nil {
		w.t.Fatal(err)
	}
	return bytes
}

// rows counts the rows of a table.
func (w *world) rows(table string) (n int) {
	w.t.Helper()
	if err := w.meta.View(w.t.Context(), func(tx storage.Tx) error {
		for _, err := range tx.Scan(table, nil, nil) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) report(running ...registry.Running) {
	w.t.Helper()
	if _, unknown, err := w.ReportRunning(w.t.Context(), registry.Report{Node: "n", By: "n", Running: running, TTL: 7 * day}); err != nil || len(unknown) > 0 {
		w.t.Fatal(unknown, err)
	}
}
