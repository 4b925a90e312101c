package retention_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/retention"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// pulled reads the rows of pulls: those by tag and those by digest.
func (w *world) pulled() (tags, digests map[string]time.Time) {
	w.t.Helper()
	tags, digests = map[string]time.Time{}, map[string]time.Time{}
	err := w.meta.View(w.t.Context(), func(tx storage.Tx) error {
		for table, rows := range map[storage.Table[storage.Pull]]map[string]time.Time{storage.PulledTags: tags, storage.PulledDigests: digests} {
			for e, err := range table.Scan(tx, nil, nil) {
				if err != nil {
					return err
				}
				rows[string(e.Key)] = e.Value.At
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return tags, digests
}

func (w *world) flush() {
	w.t.Helper()
	if err := w.pulls.Flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func TestPullTimes(t *testing.T) {
	w := newWorld(t, openBolt(t))
	d := w.push("r", "1", "a", "b")
	bare := w.push("r", "2")
	w.pull("r", registry.Reference{Tag: "a"})
	w.pull("r", registry.Reference{Digest: d})
	w.pull("r", registry.Reference{Digest: bare}) // no tag leads to it
	if _, err := w.pulls.Wrap(w.Local).StatManifest(t.Context(), "r", registry.Reference{Tag: "b"}); err != nil {
		t.Fatal(err) // only asks
	}
	if _, _, err := w.pulls.Wrap(w.Local).Manifest(t.Context(), "r", registry.Reference{Tag: "c"}); !errors.Is(err, registry.ErrManifestUnknown) {
		t.Fatal(err)
	}
	w.flush()
	tag, byDigest := "r\x00a", "r\x00"+storage.DigestPart(d)
	tags, digests := w.pulled()
	if len(tags) != 1 || len(digests) != 1 || !tags[tag].Equal(start) || !digests[byDigest].Equal(start) {
		t.Fatalf("%v, %v", tags, digests)
	}
	// Within the hour, it is not written again: neither by this process nor by the next.
	w.pass(40 * time.Minute)
	w.pull("r", registry.Reference{Tag: "a"})
	w.flush()
	version := w.meta.(storage.Versioner).Version()
	w.flush()
	next := retention.NewPulls(w.meta, retention.PullOptions{Now: w.Now})
	if _, _, err := next.Wrap(w.Local).Manifest(t.Context(), "r", registry.Reference{Tag: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := next.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tags, _ := w.pulled(); !tags[tag].Equal(start) || w.meta.(storage.Versioner).Version() != version {
		t.Errorf("written within the hour: %v", tags)
	}
	w.pass(20 * time.Minute)
	w.pull("r", registry.Reference{Tag: "a"})
	w.flush()
	if tags, _ := w.pulled(); !tags[tag].Equal(w.Now()) {
		t.Errorf("not written after an hour: %v", tags)
	}
	// What is gone leaves nothing, not even if it was pulled just before.
	w.pass(time.Hour)
	w.pull("r", registry.Reference{Tag: "a"})
	w.pull("r", registry.Reference{Digest: d})
	if err := w.DeleteManifest(t.Context(), "r", d); err != nil {
		t.Fatal(err)
	}
	w.flush()
	if tags, digests := w.pulled(); len(tags) != 0 || len(digests) != 0 {
		t.Errorf("left %v, %v", tags, digests)
	}
}

// A pull by digest counts for each tag that names it.
func TestPulledByDigest(t *testing.T) {
	w := newWorld(t, openBolt(t), retention.Spec{PulledWithin: 30 * day})
	d := w.push("r", "1", "a", "b")
	w.push("r", "2", "c", "d")
	w.pass(40 * day)
	w.pull("r", registry.Reference{Digest: d})
	w.pull("r", registry.Reference{Tag: "c"})
	w.pass(29 * day)
	w.want("removed", w.apply(), "r:d")
	w.pass(3 * day)
	w.want("removed", w.apply(), "r:a r:b r:c")
}

// Run writes what was pulled a few seconds later, and the last ones when it ends.
func TestPullsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, mem.NewMeta())
		defer w.Close()
		w.push("r", "1", "a", "b")
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.pulls.Run(ctx) })
		w.pull("r", registry.Reference{Tag: "a"})
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if tags, _ := w.pulled(); len(tags) != 1 {
			t.Errorf("after some seconds: %v", tags)
		}
		w.pull("r", registry.Reference{Tag: "b"})
		cancel()
		running.Wait()
		if tags, _ := w.pulled(); len(tags) != 2 {
			t.Errorf("at the end: %v", tags)
		}
	})
}

// Since when pulls are recorded is written down when a server first runs, and stays.
// Until then, nothing counts as not pulled.
func TestWatchedSince(t *testing.T) {
	meta := mem.NewMeta()
	w := newWorld(t, meta, retention.Spec{PulledWithin: 2 * day})
	if err := meta.Update(t.Context(), func(tx storage.Tx) error {
		return storage.Settings.Delete(tx, storage.Key("pulls-recorded-since"))
	}); err != nil {
		t.Fatal(err)
	}
	w.push("r", "1", "a")
	w.pass(10 * day)
	w.want("removed before the first run", w.apply(), "")
	run := func() {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.pulls.Run(ctx)
		running, stop := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() { w.pulls.Run(running) })
		for has := false; !has; {
			if err := meta.View(t.Context(), func(tx storage.Tx) (err error) {
				has, err = storage.Settings.Has(tx, storage.Key("pulls-recorded-since"))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		wait.Wait()
	}
	run()
	w.pass(day)
	run()
	w.want("removed after a day", w.apply(), "")
	w.pass(day)
	w.want("removed after two days", w.apply(), "r:a")
}

// broken is a store that takes nothing.
type broken struct{ storage.Meta }

var errBroken = errors.New("no space")

func (broken) Update(context.Context, func(storage.Tx) error) error { return errBroken }

// What the store does not take counts with the next pull.
func TestPullsBroken(t *testing.T) {
	meta := mem.NewMeta()
	w := newWorld(t, meta)
	w.push("r", "1", "a")
	store := &switched{meta: broken{meta}}
	pulls := retention.NewPulls(store, retention.PullOptions{Now: w.Now})
	w.pulls = pulls
	w.pull("r", registry.Reference{Tag: "a"})
	if err := pulls.Flush(t.Context()); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	store.meta = meta
	w.flush()
	if tags, _ := w.pulled(); len(tags) != 0 {
		t.Errorf("%v", tags)
	}
	w.pull("r", registry.Reference{Tag: "a"})
	w.flush()
	if tags, _ := w.pulled(); len(tags) != 1 {
		t.Errorf("%v", tags)
	}
}

// switched is a store that a test puts another in place of.
type switched struct{ meta storage.Meta }

func (s *switched) View(ctx context.Context, fn func(storage.Tx) error) error {
	return s.meta.View(ctx, fn)
}

func (s *switched) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return s.meta.Update(ctx, fn)
}

func (s *switched) Close() error { return s.meta.Close() }

// However much is pulled, the memory that it takes has an end.
func TestManyPulls(t *testing.T) {
	meta := mem.NewMeta()
	w := newWorld(t, meta)
	d := w.push("r", "1", "a")
	all := w.pulls.Wrap(everything{desc: registry.Descriptor{Digest: d}})
	const most = 50_000
	for i := range most + 1000 {
		if _, _, err := all.Manifest(t.Context(), "r", registry.Reference{Tag: fmt.Sprintf("t%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := all.Manifest(t.Context(), "r", registry.Reference{Tag: "a"}); err != nil {
		t.Fatal(err)
	}
	w.flush()
	if tags, _ := w.pulled(); len(tags) != 0 { // it was lost; and what is not there has no row
		t.Errorf("%d rows", len(tags))
	}
	w.pull("r", registry.Reference{Tag: "a"})
	w.flush()
	if tags, _ := w.pulled(); len(tags) != 1 {
		t.Errorf("%d rows", len(tags))
	}
}

// everything is a registry that has every manifest.
type everything struct {
	registry.Registry
	desc registry.Descriptor
}

func (e everything) Manifest(context.Context, string, registry.Reference) ([]byte, registry.Descriptor, error) {
	return nil, e.desc, nil
}

func BenchmarkPull(b *testing.B) {
	w := newWorld(b, mem.NewMeta())
	r := w.pulls.Wrap(everything{})
	ref := registry.Reference{Digest: digest.FromString("x")}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := r.Manifest(context.Background(), "team/web", ref); err != nil {
				b.Fatal(err)
			}
		}
	})
}
