package registry_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// paused is metadata whose transactions wait at their end, before they are committed, if
// they are in a context of pausing.
type paused struct {
	storage.Meta
	mu sync.Mutex
	at func(storage.Tx) // called once; nil for no longer
}

type pausingKey struct{}

func pausing(ctx context.Context) context.Context { return context.WithValue(ctx, pausingKey{}, true) }

func (p *paused) Update(ctx context.Context, fn func(storage.Tx) error) error {
	return p.Meta.Update(ctx, func(tx storage.Tx) error {
		err := fn(tx)
		p.mu.Lock()
		at := p.at
		if ctx.Value(pausingKey{}) == nil {
			at = nil
		} else {
			p.at = nil
		}
		p.mu.Unlock()
		if err == nil && at != nil {
			at(tx)
		}
		return err
	})
}

// onPostgres makes a registry whose transactions can be paused, and another one.
func onPostgres(t *testing.T) (a, b *collected, p *paused) {
	t.Helper()
	dsn := postgrestest.Start(t)
	open := func() storage.Meta {
		meta := must[*postgres.Meta](t)(postgres.Open(t.Context(), postgres.Options{DSN: dsn}))
		t.Cleanup(func() { _ = meta.Close() })
		return meta
	}
	p = &paused{Meta: open()}
	a = &collected{clock: &clock{now: time.Unix(1e9, 0)}, t: t, blobs: mem.NewBlobs(), meta: p}
	b = &collected{clock: a.clock, t: t, blobs: a.blobs, meta: open()}
	a.again()
	b.again()
	return a, b, p
}

// TestHeldAtTheSameTime holds the collection in one server while another one is about to
// commit tombstones: either they are there when it is held, or they are not written.
func TestHeldAtTheSameTime(t *testing.T) {
	a, b, p := onPostgres(t)
	layer := a.blob("a", "layer")
	if err := a.DeleteBlob(t.Context(), "a", layer.Digest); err != nil {
		t.Fatal(err)
	}
	a.pass(48 * time.Hour)
	held, deleting := false, false
	p.at = func(storage.Tx) {
		release := must[func()](t)(b.HoldCollection(t.Context()))
		t.Cleanup(release)
		held = true
		if err := b.meta.View(t.Context(), func(tx storage.Tx) error {
			row, err := storage.Stored.Get(tx, storage.Key(storage.DigestPart(layer.Digest)))
			deleting = row.Deleting
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	if err := a.Collect(pausing(t.Context()), true, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.blobs.Size(t.Context(), layer.Digest); !held || err != nil && !deleting {
		t.Errorf("held %t, shown as being deleted %t, and then the bytes are gone: %v", held, deleting, err)
	}
}

// TestMountedWhileCollected mounts a blob, removes it from where it was and collects it,
// each in another server, so that none sees what the others are about to do.
func TestMountedWhileCollected(t *testing.T) {
	a, b, p := onPostgres(t)
	layer := b.blob("a", "layer")
	a.pass(48 * time.Hour)
	p.at = func(storage.Tx) { // the mount has found it
		if err := b.DeleteBlob(t.Context(), "a", layer.Digest); err != nil {
			t.Error(err)
		}
		b.collects()
	}
	_, err := a.MountBlob(pausing(t.Context()), "b", "a", layer.Digest)
	if p.at != nil {
		t.Fatal("it was not mounted")
	}
	_, serr := a.blobs.Size(t.Context(), layer.Digest)
	if err == nil && serr != nil || err != nil && !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("mounted: %v, the bytes: %v", err, serr)
	}
}

// TestCollectDifferent has two servers collect at once: while one is about to commit its
// reviews, the other one does those that are left, and does not wait.
func TestCollectDifferent(t *testing.T) {
	a, b, p := onPostgres(t)
	for i := range 200 { // more than are done at once
		a.blob("a", string(rune('a'+i)))
	}
	a.pass(48 * time.Hour)
	other := 0
	p.at = func(storage.Tx) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.Collect(ctx, false, func(done registry.Collected) { other += len(done.Removed) }); err != nil {
			t.Error(err)
		}
	}
	mine := 0
	if err := a.Collect(pausing(t.Context()), false, func(done registry.Collected) { mine += len(done.Removed) }); err != nil {
		t.Fatal(err)
	}
	if other == 0 || mine == 0 || mine+other != 200 {
		t.Errorf("one has removed %d links and the other one %d, of 200", mine, other)
	}
}

// TestPushedAtOnce has two servers push different blobs to different repositories at once:
// none meets the other, and what all use is counted, also when it is counted anew.
func TestPushedAtOnce(t *testing.T) {
	a, b, _ := onPostgres(t)
	meta := b.meta.(*postgres.Meta)
	a.blob("a", "first")
	b.blob("b", "first")
	before := meta.Stats().Retries
	var all sync.WaitGroup
	for i, c := range []*collected{a, b} {
		all.Go(func() {
			for n := range 20 {
				c.blob(string(rune('a'+i)), string(rune('a'+i))+string(rune('a'+n)))
			}
		})
	}
	all.Wait()
	t.Logf("%d transactions of one server met others", meta.Stats().Retries-before)
	want := registry.Usages{Counted: true, Sum: 2*len64("first") + 2*20*2, Bytes: len64("first") + 2*20*2}
	if got := must[registry.Usages](t)(a.Usages(t.Context())); got != want {
		t.Errorf("counted is %+v, want %+v", got, want)
	}
	if err := errors.Join(a.Uncount(t.Context()), b.Recount(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := must[registry.Usages](t)(a.Usages(t.Context())); got != want {
		t.Errorf("counted anew is %+v, want %+v", got, want)
	}
	a.blob("a", "last")
	forget(t, b.meta)
	if err := b.Recount(t.Context()); err != nil {
		t.Fatal(err)
	}
	want.Sum, want.Bytes = want.Sum+len64("last"), want.Bytes+len64("last")
	if got := must[registry.Usages](t)(a.Usages(t.Context())); got != want {
		t.Errorf("what was forgotten is counted as %+v, want %+v", got, want)
	}
}

func len64(s string) int64 { return int64(len(s)) }
