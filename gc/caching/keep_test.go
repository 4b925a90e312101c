package caching_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

func hub(keep time.Duration, quota int64) caching.Mirror {
	return caching.Mirror{Name: "docker", Prefix: "hub", Keep: keep, Quota: quota}
}

// TestKeep follows what is cached until nobody has pulled it for long enough.
func TestKeep(t *testing.T) {
	stores(t, func(t *testing.T, meta storage.Meta) {
		w := newWorld(t, meta, hub(10*day, 0))
		one, two := imageOf("one"), imageOf("two")
		index := w.fetchManifest("hub/a", indexOf(one, two), "v1", "latest")
		child := w.fetch("hub/a", []string{"one"})
		other := w.fetch("hub/a", []string{"two"})
		old := w.fetch("hub/a", []string{"old"}, "old")
		w.fetchManifest("hub/a", imageOf("moved"), "old") // upstream has moved it
		if err := w.SetUpstreamed(t.Context(), "hub/a", "old", registry.Upstreamed{Digest: old, Checked: w.Now()}); err != nil {
			t.Fatal(err)
		}
		w.pass(9 * day)
		w.twice()
		w.want("while it is kept", "hub/a", []digest.Digest{index, child, other, old})
		w.pull("hub/a", registry.Reference{Tag: "v1"})
		w.pull("hub/a", registry.Reference{Digest: child})
		w.changes = nil
		w.pass(2 * day)
		w.twice()
		w.want("after that", "hub/a", []digest.Digest{index, child}, other, old)
		if w.hasBlob("hub/a", digest.FromString("two")) || !w.hasBlob("hub/a", digest.FromString("one")) {
			t.Error("blobs do not go with their image, or all do")
		}
		if n := w.rows(storage.Mirrored.Name()); n != 0 {
			t.Errorf("%d tags are remembered that are gone", n)
		}
		if n := w.rows(storage.History.Name()); n != 2 {
			t.Errorf("%d moves of tags are left, want those of 2 tags", n)
		}
		w.pass(10 * day)
		w.twice()
		w.pass(day)
		w.collect()
		if stats, err := w.Stats(t.Context()); err != nil || stats != (registry.Stats{}) {
			t.Errorf("left: %+v, %v", stats, err)
		}
		for _, table := range []string{
			storage.Holders.Name(), storage.Parents.Name(), storage.Referrers.Name(), storage.Tags.Name(), storage.Tagged.Name(),
			storage.History.Name(), storage.Past.Name(), storage.Reviews.Name(), storage.PulledTags.Name(), storage.PulledDigests.Name(),
			storage.Usages.Name(), storage.Shares.Name(), storage.Mirrored.Name(),
		} {
			if n := w.rows(table); n > 0 {
				t.Errorf("%d rows of %s are left", n, table)
			}
		}
		if len(w.changes) > 0 {
			t.Errorf("somebody was told of %+v", w.changes)
		}
	})
}

// TestKeepUntagged has gc.untagged, history and immutability be of no account.
func TestKeepUntagged(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(2*day, 0))
	w.SetKeeping(registry.Keeping{Grace: day, Lease: time.Hour, Untagged: true, History: 100 * day, Moves: 5})
	w.SetImmutable(func(string, string) bool { return true })
	first := w.fetch("hub/a", []string{"one"}, "v1")
	second := w.fetch("hub/a", []string{"two"}, "v1")
	own := w.fetch("own", []string{"one"})
	w.pass(4 * day)
	w.twice()
	w.want("in a cache", "hub/a", nil, first, second)
	w.want("elsewhere", "own", []digest.Digest{own})
}

// TestKeepForever has nothing go, not even what nothing leads to, until somebody
// deletes it.
func TestKeepForever(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(0, 0))
	tagged := w.fetch("hub/a", []string{"one", "both"}, "v1")
	bare := w.fetch("hub/a", []string{"two", "both"})
	loose := w.fetchBlob("hub/a", "loose")
	for range 3 {
		w.pass(1000 * day)
		w.twice()
	}
	w.want("for ever", "hub/a", []digest.Digest{tagged, bare})
	if !w.hasBlob("hub/a", loose) {
		t.Error("a blob is gone that was pulled")
	}
	if err := w.DeleteManifest(t.Context(), "hub/a", tagged); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * day)
	w.twice()
	if w.hasBlob("hub/a", digest.FromString("one")) || !w.hasBlob("hub/a", digest.FromString("both")) {
		t.Error("a blob stays whose image was deleted, or all are gone")
	}
}

// TestPulledBlob has a blob outlive its image.
func TestPulledBlob(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(10*day, 0))
	d := w.fetch("hub/a", []string{"one", "two"}, "v1")
	w.pass(5 * day)
	w.pullBlob("hub/a", digest.FromString("one"))
	w.pass(6 * day)
	w.twice()
	w.want("not pulled", "hub/a", nil, d)
	one, two := w.hasBlob("hub/a", digest.FromString("one")), w.hasBlob("hub/a", digest.FromString("two"))
	if !one || two {
		t.Errorf("the blob that was pulled: %v, the other: %v", one, two)
	}
	w.pass(5 * day)
	w.twice()
	if w.hasBlob("hub/a", digest.FromString("one")) {
		t.Error("the blob stays")
	}
}

// TestAsked has the question where a tag points be a pull: who has the image asks for
// nothing else.
func TestAsked(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(2*day, 0))
	asked, unasked := w.fetch("hub/a", []string{"one"}, "v1"), w.fetch("hub/a", []string{"two"}, "v2")
	for range 5 {
		w.pass(day)
		if _, err := w.served.StatManifest(t.Context(), "hub/a", registry.Reference{Tag: "v1"}); err != nil {
			t.Fatal(err)
		}
		w.collect()
	}
	w.want("asked for", "hub/a", []digest.Digest{asked}, unasked)
}

// TestRunning keeps what a node runs, what leads to it, and what it leads to.
func TestRunning(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(2*day, 1))
	image := w.fetch("hub/a", []string{"one"}, "v0")
	index := w.fetchManifest("hub/a", indexOf(imageOf("one"), imageOf("none")), "v1")
	other := w.fetchManifest("hub/a", indexOf(imageOf("two")), "v2")
	child := w.fetch("hub/a", []string{"two"})
	gone := w.fetch("hub/a", []string{"three"}, "v3")
	w.report(registry.Running{Repo: "hub/a", Digest: image}, registry.Running{Repo: "hub/a", Digest: other})
	w.pass(4 * day)
	w.evict()
	w.want("when it is full", "hub/a", []digest.Digest{image, index, other, child}, gone)
	w.twice()
	w.want("after a while", "hub/a", []digest.Digest{image, index, other, child})
	if s := w.evictor.Stats()[0]; !s.Stuck || s.Evicted != 1 {
		t.Errorf("%+v", s)
	}
	w.report()
	w.pass(2 * day)
	w.twice()
	w.want("when it runs no more", "hub/a", nil, image, index, other, child)
}

// TestLook finds what was there before its repository was a cache, and what was to be
// kept for longer.
func TestLook(t *testing.T) {
	stores(t, func(t *testing.T, meta storage.Meta) {
		w := newWorld(t, meta)
		before := w.fetch("hub/a", []string{"one"}, "v1")
		look := func() {
			t.Helper()
			if err := w.LookCaches(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.evictor.Set([]caching.Mirror{hub(0, 0)})
		look()
		after := w.fetch("hub/a", []string{"two"})
		w.fetchBlob("hub/a", "three")
		w.pass(20 * day)
		w.twice()
		w.want("kept for ever", "hub/a", []digest.Digest{before, after})
		w.evictor.Set([]caching.Mirror{hub(100*day, 0)})
		look()
		w.evictor.Set([]caching.Mirror{hub(10*day, 0)})
		look()
		w.pass(2 * day)
		w.twice()
		w.want("kept for ten days", "hub/a", nil, before, after)
		if w.hasBlob("hub/a", digest.FromString("three")) {
			t.Error("a blob is left")
		}
		// What is no cache any more is kept like anything else.
		tagged, bare := w.fetch("hub/a", []string{"one"}, "v1"), w.fetch("hub/a", []string{"two"})
		w.evictor.Set(nil)
		w.pass(20 * day)
		w.twice()
		w.want("no cache any more", "hub/a", []digest.Digest{tagged}, bare)
	})
}

// TestForgetUpstreamed forgets what was learnt of tags that were never cached.
func TestForgetUpstreamed(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(10*day, 0))
	d := w.fetch("hub/a", []string{"one"}, "v1")
	for _, tag := range []string{"v1", "v2"} {
		if err := w.SetUpstreamed(t.Context(), "hub/a", tag, registry.Upstreamed{Digest: d, Checked: w.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{2, 1} {
		if err := w.LookCaches(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := w.rows(storage.Mirrored.Name()); n != want {
			t.Errorf("%d tags are remembered, want %d", n, want)
		}
		w.pass(25 * time.Hour)
	}
}

// TestQuotas has quotas of pushes be of no account in a cache, and the other way round.
func TestQuotas(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(10*day, 0))
	all := []registry.Quota{{Name: "**", Match: func(string) bool { return true }, Bytes: 1000, Tags: 1}}
	w.SetQuotas(all)
	w.fetch("hub/a", []string{strings.Repeat("x", 5000)}, "v1")
	w.fetch("hub/a", []string{strings.Repeat("y", 5000)}, "v2")
	if list, err := w.QuotaUsage(t.Context()); err != nil || len(list) != 1 || list[0].Bytes != 0 || list[0].Tags != 0 || !list[0].Counted {
		t.Errorf("%+v, %v", list, err)
	}
	if n := w.usage("hub"); n < 10_000 {
		t.Errorf("the cache holds %d bytes", n)
	}
	big := strings.Repeat("z", 2000)
	if _, err := w.PushBlob(t.Context(), "own", digest.FromString(big), strings.NewReader(big)); !errors.Is(err, registry.ErrQuota) {
		t.Errorf("a push over the quota: %v", err)
	}
	// With other caches, all is counted anew.
	w.evictor.Set([]caching.Mirror{hub(0, 0), {Name: "quay", Prefix: "quay"}})
	if _, _, err := w.evictor.Usage(t.Context(), "ghcr"); !errors.Is(err, registry.ErrNameUnknown) {
		t.Errorf("usage of no cache: %v", err)
	}
	w.fetch("own", []string{"own"}, "v1")
	if err := w.Recount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := w.QuotaUsage(t.Context()); err != nil || list[0].Tags != 1 || !list[0].Counted {
		t.Errorf("%+v, %v", list, err)
	}
	if bytes, manifests, err := w.evictor.Usage(t.Context(), "hub"); bytes < 10_000 || manifests != 2 || err != nil {
		t.Errorf("the cache holds %d bytes, %d manifests, %v", bytes, manifests, err)
	}
}

// TestRules has rules of retention be about no cache.
func TestRules(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(100*day, 0))
	rule, err := retention.NewRule(retention.Spec{Repos: func(string) bool { return true }, Last: 1})
	if err != nil {
		t.Fatal(err)
	}
	keeper := retention.New(w.meta, w.Local, retention.Options{Rules: []retention.Rule{rule}, Pulls: w.pulls, Now: w.Now})
	keeper.SetCached(w.Cached)
	for _, repo := range []string{"hub/a", "hubris/a"} {
		w.fetch(repo, []string{"one"}, "v1", "v2")
	}
	done, err := keeper.Apply(t.Context(), retention.Scope{}, nil)
	if err != nil || done.Removed != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	for _, tag := range []string{"v1", "v2"} {
		w.pull("hub/a", registry.Reference{Tag: tag})
	}
}

// TestPulledAgain counts pulls that are not written down, as there was one within the
// hour: by this process, or by one before.
func TestPulledAgain(t *testing.T) {
	for name, pulls := range map[string]int{"one process": 2, "several": 3} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, mem.NewMeta(), hub(2*day, 0))
			restarts := pulls == 3
			d := w.fetch("hub/a", []string{"one"})
			last := w.Now()
			for _, after := range []time.Duration{0, 49 * time.Minute, 49 * time.Minute}[:pulls] {
				w.pass(after)
				w.pull("hub/a", registry.Reference{Digest: d})
				if last = w.Now(); restarts {
					if err := w.pulls.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if restarts && after == 0 {
					w.pulls = retention.NewPulls(w.meta, retention.PullOptions{Now: w.Now})
					w.pulls.SetCached(w.Cached)
					w.served = w.pulls.Wrap(w.Local)
				}
			}
			w.pass(2*day - time.Minute)
			w.collect()
			w.want("to the last minute", "hub/a", []digest.Digest{d})
			w.pass(last.Add(2*day + slack + time.Minute).Sub(w.Now()))
			w.collect()
			w.want("an hour later", "hub/a", nil, d)
		})
	}
}
