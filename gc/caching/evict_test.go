package caching_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// layer is a layer of n bytes.
func layer(n int, name string) string { return name + strings.Repeat(".", n-len(name)) }

// images fetches n images, an hour apart, each with a layer of 100 kB and one that all
// have.
func (w *world) images(n int) (ds []digest.Digest) {
	w.t.Helper()
	for i := range n {
		ds = append(ds, w.fetch(fmt.Sprintf("hub/%d", i%3), []string{layer(100_000, fmt.Sprint(i)), layer(50_000, "base")}, fmt.Sprintf("v%d", i)))
		w.pass(time.Hour)
	}
	return ds
}

// plan says which manifests would go.
func (w *world) plan() (ds []digest.Digest, bytes int64) {
	w.t.Helper()
	for one, err := range w.evictor.Plan(w.t.Context()) {
		if err != nil {
			w.t.Fatal(err)
		}
		if one.Mirror != "docker" || one.Kind == storage.ReviewManifest && len(one.Tags) == 0 {
			w.t.Errorf("planned: %+v", one)
		}
		ds, bytes = append(ds, one.Digest), bytes+one.Bytes
	}
	return ds, bytes
}

// TestQuota has what was pulled longest ago go when a cache is full.
func TestQuota(t *testing.T) {
	stores(t, func(t *testing.T, meta storage.Meta) {
		w := newWorld(t, meta, hub(0, 1_000_000))
		own := w.fetch("own", []string{layer(100_000, "0")}, "v1") // it counts in the cache, too
		ds := w.images(9)
		w.evict()
		if n := w.usage("hub"); n < 950_000 || n > 1_000_000 {
			t.Fatalf("the cache holds %d bytes", n)
		}
		w.pull("hub/0", registry.Reference{Tag: "v0"})
		w.pull("hub/1", registry.Reference{Digest: ds[1]})
		ds = append(ds, w.fetch("hub/2", []string{layer(100_000, "last")}, "last"))
		planned, bytes := w.plan()
		before := w.usage("hub")
		w.evict()
		left := w.usage("hub")
		if left > 950_000 || left < 800_000 || before-left != bytes || !slices.Equal(planned, ds[2:4]) {
			t.Errorf("the cache holds %d bytes; %d of %v were planned to go of %d", left, bytes, planned, before)
		}
		for i, d := range ds[:9] {
			if has := w.has(fmt.Sprintf("hub/%d", i%3), d); has != (i != 2 && i != 3) {
				t.Errorf("image %d is there: %v", i, has)
			}
		}
		if w.hasBlob("hub/2", digest.FromString(layer(100_000, "2"))) || !w.hasBlob("hub/2", digest.FromString(layer(50_000, "base"))) {
			t.Error("the layers do not go with their image, or all do")
		}
		if s := w.evictor.Stats()[0]; s.Evicted != 2 || s.Bytes != bytes || s.Stuck || s.Failures > 0 || !s.Last.Equal(w.Now()) || s.Name != "docker" {
			t.Errorf("%+v", s)
		}
		// The bytes themselves go by collection.
		blobs := func() int64 {
			stats, err := w.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return stats.Bytes
		}
		stored := blobs()
		w.pass(11 * time.Minute)
		w.collect()
		if n := stored - blobs(); n < 200_000 || n > 202_000 {
			t.Errorf("%d bytes were freed", n)
		}
		w.want("elsewhere", "own", []digest.Digest{own})
		if planned, _ := w.plan(); len(planned) > 0 {
			t.Errorf("%v is still planned to go", planned)
		}
		for _, c := range w.changes {
			if c.Kind != registry.PushedManifest && c.Kind != registry.MovedTag {
				t.Errorf("somebody was told of %+v", c)
			}
		}
	})
}

// TestQuotaInUse lets nothing go that is being pulled, fetched or run.
func TestQuotaInUse(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(day, 1))
	old := w.images(6)
	w.pull("hub/0", registry.Reference{Digest: old[0]})
	w.pass(30 * time.Minute)
	w.pull("hub/0", registry.Reference{Digest: old[0]}) // which is not written down
	w.pullBlob("hub/1", digest.FromString(layer(100_000, "1")))
	w.report(registry.Running{Repo: "hub/2", Digest: old[2]})
	fetched := w.fetch("hub/0", []string{layer(100_000, "new")})
	loose := w.fetchBlob("hub/1", layer(1000, "loose"))
	w.pass(9 * time.Minute)
	w.evict()
	for i, d := range old {
		if has := w.has(fmt.Sprintf("hub/%d", i%3), d); has != (i == 0 || i == 2) {
			t.Errorf("image %d is there: %v", i, has)
		}
	}
	w.want("fetched", "hub/0", []digest.Digest{fetched})
	if !w.hasBlob("hub/1", loose) || !w.hasBlob("hub/1", digest.FromString(layer(100_000, "1"))) || w.hasBlob("hub/1", digest.FromString(layer(100_000, "4"))) {
		t.Error("a blob is gone that was just fetched or pulled, or one is left")
	}
	if s := w.evictor.Stats()[0]; !s.Stuck {
		t.Errorf("%+v", s)
	}
	// A full cache takes what is pulled through it.
	w.fetch("hub/0", []string{layer(100_000, "more")}, "more")
	w.pass(70 * time.Minute)
	w.evict()
	w.want("later", "hub/2", []digest.Digest{old[2]})
	if n := w.usage("hub"); n > 152_000 {
		t.Errorf("the cache holds %d bytes", n)
	}
}

// TestQuotaPrefixes counts each cache for itself, one below another as well.
func TestQuotaPrefixes(t *testing.T) {
	w := newWorld(t, mem.NewMeta(),
		caching.Mirror{Name: "a", Prefix: "hub", Quota: 500_000},
		caching.Mirror{Name: "b", Prefix: "hub/inner", Quota: 1_000},
		caching.Mirror{Name: "c", Prefix: "hu"})
	outer := w.fetch("hub/x", []string{layer(100_000, "x")})
	inner := w.fetch("hub/inner/y", []string{layer(100_000, "y")})
	near := w.fetch("hubble/z", []string{layer(100_000, "z")}, "v1")
	w.pass(time.Hour)
	w.evict()
	w.want("outer", "hub/x", []digest.Digest{outer})
	w.want("inner", "hub/inner/y", nil, inner)
	w.want("near", "hubble/z", []digest.Digest{near})
	if n := w.usage("hu"); n != 0 {
		t.Errorf("a cache of nothing holds %d bytes", n)
	}
	if n := w.usage("hub"); n < 100_000 || n > 101_000 {
		t.Errorf("the outer cache holds %d bytes", n)
	}
}

// TestUncounted removes nothing as long as nobody knows how much a cache holds.
func TestUncounted(t *testing.T) {
	w := newWorld(t, mem.NewMeta())
	ds := w.images(3)
	w.evictor.Set([]caching.Mirror{hub(0, 1000)})
	w.evict()
	if planned, _ := w.plan(); len(planned) > 0 || !w.has("hub/0", ds[0]) {
		t.Errorf("planned: %v", planned)
	}
	if err := w.Recount(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.evict()
	if n := w.usage("hub"); n != 0 {
		t.Errorf("the cache holds %d bytes", n)
	}
}

// failing is a registry with a mirror that cannot be made smaller.
type failing struct{ *registry.Local }

var errFails = errors.New("it fails")

func (f failing) LeastUsed(ctx context.Context, e registry.Eviction, most int) ([]registry.CachedContent, error) {
	if e.Prefix == "bad" {
		return nil, errFails
	}
	return f.Local.LeastUsed(ctx, e, most)
}

// TestFailure has a mirror that fails keep no other from being made smaller.
func TestFailure(t *testing.T) {
	w := newWorld(t, mem.NewMeta())
	e := caching.New(failing{w.Local}, caching.Options{Now: w.Now, Mirrors: []caching.Mirror{{Name: "bad", Prefix: "bad", Quota: 1}, hub(0, 1)}})
	bad := w.fetch("bad/a", []string{"one"})
	good := w.fetch("hub/a", []string{"one"})
	w.pass(time.Hour)
	if err := e.Evict(t.Context()); !errors.Is(err, errFails) || !strings.Contains(err.Error(), "mirror bad") {
		t.Error(err)
	}
	w.want("bad", "bad/a", []digest.Digest{bad})
	w.want("good", "hub/a", nil, good)
	if s := e.Stats(); s[0].Failures != 1 || s[1].Failures != 0 {
		t.Errorf("%+v", s)
	}
}

// TestRun makes a cache smaller soon after it is full, and looks at what is there when
// the mirrors have changed.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local, err := registry.NewLocal(t.Context(), mem.NewBlobs(), mem.NewMeta(), registry.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		w := &world{Local: local, t: t}
		w.evictor = caching.New(local, caching.Options{Mirrors: []caching.Mirror{hub(0, 1000)}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.evictor.Run(ctx) })
		synctest.Wait()
		d := w.fetch("hub/a", []string{layer(10_000, "one")})
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if !w.has("hub/a", d) {
			t.Error("it went at once")
		}
		time.Sleep(7 * time.Minute)
		synctest.Wait()
		if w.has("hub/a", d) {
			t.Error("it stays")
		}
		d = w.fetch("hub/a", []string{"small"})
		w.evictor.Set([]caching.Mirror{hub(time.Hour, 1000)})
		time.Sleep(2 * day)
		synctest.Wait()
		if err := local.Collect(ctx, false, nil); err != nil || w.has("hub/a", d) {
			t.Errorf("it is kept for ever: %v", err)
		}
		cancel()
		running.Wait()
	})
}

// TestQuotaShared has content pulled through another server again and again, which
// writes that down only now and then: it is in use here, too, until nobody has pulled it
// for a while.
func TestQuotaShared(t *testing.T) {
	for _, every := range []time.Duration{time.Minute, 4 * time.Minute, 10*time.Minute - time.Second} {
		t.Run(every.String(), func(t *testing.T) {
			w := newWorld(t, mem.NewMeta(), hub(0, 1))
			other := retention.NewPulls(w.meta, retention.PullOptions{Now: w.Now})
			other.SetCached(w.Cached)
			d := w.fetch("hub/a", []string{"layer"}, "v1")
			bare := w.fetchBlob("hub/a", "bare")
			written := map[time.Time]bool{}
			begin := w.Now()
			for w.Now().Sub(begin) < 2*time.Hour {
				if _, _, err := other.Wrap(w.Local).Manifest(t.Context(), "hub/a", registry.Reference{Digest: d}); err != nil {
					t.Fatal(err)
				}
				f, _, err := other.Wrap(w.Local).Blob(t.Context(), "hub/a", bare)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(f.Close(), other.Flush(t.Context())); err != nil {
					t.Fatal(err)
				}
				written[w.pulledAt("hub/a", d)] = true
				w.pass(every)
				w.evict()
				if !w.has("hub/a", d) || !w.hasBlob("hub/a", bare) {
					t.Fatalf("it is gone after %v", w.Now().Sub(begin))
				}
			}
			if n := len(written); n > 13 {
				t.Errorf("in two hours it was written down %d times", n)
			}
			w.pass(22 * time.Minute)
			w.evict()
			if w.has("hub/a", d) || w.hasBlob("hub/a", bare) {
				t.Error("it stays when nobody pulls it")
			}
		})
	}
}

// pulledAt is when it is written down that a manifest was pulled last.
func (w *world) pulledAt(repo string, d digest.Digest) (at time.Time) {
	w.t.Helper()
	if err := w.meta.View(w.t.Context(), func(tx storage.Tx) error {
		row, err := storage.PulledDigests.Get(tx, storage.Key(repo, storage.DigestPart(d)))
		at = row.At
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return at
}
