package caching_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/gc/caching"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// slack is how much longer than it has to a cache may keep something.
const slack = time.Hour

// item is content of a repository.
type item struct {
	repo string
	d    digest.Digest
}

// model is what should be cached, by what its clients have done.
type model struct {
	*world
	*rand.Rand
	keep    time.Duration
	used    map[item]time.Time // manifests
	blobs   map[item]time.Time
	data    map[digest.Digest]string    // of manifests
	layers  map[digest.Digest][]string  // of images
	runs    item                        // what the node has reported
	running map[digest.Digest]time.Time // until when
	ran     map[digest.Digest]time.Time // until when it may be kept for that
}

func newModel(t *testing.T, seed uint64, meta storage.Meta, keep time.Duration, quota int64) *model {
	return &model{
		world: newWorld(t, meta, hub(keep, quota)), Rand: rand.New(rand.NewPCG(seed, 1)), keep: keep,
		used: map[item]time.Time{}, blobs: map[item]time.Time{}, data: map[digest.Digest]string{}, layers: map[digest.Digest][]string{}, running: map[digest.Digest]time.Time{}, ran: map[digest.Digest]time.Time{},
	}
}

func (m *model) repo() string { return fmt.Sprintf("hub/%d", m.IntN(3)) }

// one picks something that was ever there.
func one[V any](m *model, of map[item]V) (item, bool) {
	if len(of) == 0 {
		return item{}, false
	}
	all := slices.SortedFunc(maps.Keys(of), func(a, b item) int {
		return slices.Compare([]string{a.repo, string(a.d)}, []string{b.repo, string(b.d)})
	})
	return all[m.IntN(len(all))], true
}

func (m *model) tags() (tags []string) {
	for range m.IntN(3) {
		tags = append(tags, fmt.Sprintf("t%d", m.IntN(6)))
	}
	return tags
}

func (m *model) fetchImage() {
	repo := m.repo()
	var layers []string
	for range 1 + m.IntN(3) {
		layers = append(layers, layer(1000, fmt.Sprintf("layer %d", m.IntN(12))))
	}
	d := m.fetchManifest(repo, imageOf(layers...), m.tags()...)
	m.used[item{repo, d}], m.data[d], m.layers[d] = m.Now(), imageOf(layers...), append(layers, "{}")
	for _, l := range m.layers[d] {
		if m.IntN(5) > 0 {
			m.blobs[item{repo, m.fetchBlob(repo, l)}] = m.Now()
		}
	}
}

func (m *model) fetchIndex() {
	repo := m.repo()
	var images []string
	for range 2 {
		if k, ok := one(m, m.used); ok && m.layers[k.d] != nil {
			images = append(images, m.data[k.d])
		}
	}
	if len(images) == 0 {
		return
	}
	d := m.fetchManifest(repo, indexOf(images...), m.tags()...)
	m.used[item{repo, d}], m.data[d] = m.Now(), indexOf(images...)
}

func (m *model) pullSome() {
	if k, ok := one(m, m.used); ok {
		if _, _, err := m.served.Manifest(m.t.Context(), k.repo, registry.Reference{Digest: k.d}); err == nil {
			m.used[k] = m.Now()
		}
	}
	repo, tag := m.repo(), fmt.Sprintf("t%d", m.IntN(6))
	if _, desc, err := m.served.Manifest(m.t.Context(), repo, registry.Reference{Tag: tag}); err == nil {
		m.used[item{repo, desc.Digest}] = m.Now()
	}
	if k, ok := one(m, m.blobs); ok && m.hasBlob(k.repo, k.d) {
		m.pullBlob(k.repo, k.d)
		m.blobs[k] = m.Now()
	}
}

func (m *model) run() {
	k, ok := one(m, m.used)
	if !ok || !m.has(k.repo, k.d) {
		return
	}
	m.report(registry.Running{Repo: k.repo, Digest: k.d})
	for d, until := range m.running { // it is looked at once a day
		m.ran[d] = slices.MinFunc([]time.Time{until, m.Now().Add(day)}, time.Time.Compare)
	}
	clear(m.running)
	m.runs = k
	m.running[k.d], m.ran[k.d] = m.Now().Add(7*day), m.Now().Add(7*day)
}

// step does something, as clients do.
func (m *model) step() {
	switch m.IntN(8) {
	case 0, 1:
		m.fetchImage()
	case 2:
		m.fetchIndex()
	case 3, 4, 5:
		m.pullSome()
	case 6:
		if m.IntN(4) == 0 {
			m.run()
		}
	}
	most := []time.Duration{3 * time.Hour, 20 * time.Minute}[m.IntN(2)]
	m.pass(time.Duration(m.Int64N(int64(most))))
	if m.IntN(50) == 0 { // as if the server was started anew
		if err := m.pulls.Flush(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
}

// check fails if something is gone that was pulled since a time, or that a node runs.
func (m *model) check(since time.Time) {
	m.t.Helper()
	for k, at := range m.used {
		if (at.After(since) || k == m.runs && m.running[k.d].After(m.Now())) && !m.has(k.repo, k.d) {
			m.t.Fatalf("%s of %s is gone, pulled %s ago", k.d, k.repo, m.Now().Sub(at))
		}
	}
	for k, at := range m.blobs {
		if at.After(since) && !m.hasBlob(k.repo, k.d) {
			m.t.Fatalf("blob %s of %s is gone, pulled %s ago", k.d, k.repo, m.Now().Sub(at))
		}
	}
}

// checkGone fails if something is there that nobody has pulled since a time.
func (m *model) checkGone(since time.Time) {
	m.t.Helper()
	near := map[digest.Digest]bool{} // what a node may have run since then
	for ran, until := range m.ran {
		for d := range m.data {
			if until.After(since) && (d == ran || m.leads(ran, d) || m.leads(d, ran)) {
				near[d] = true
			}
		}
	}
	needed := map[item]bool{} // since then
	for k, at := range m.used {
		stays := !at.Before(since) || near[k.d]
		for _, l := range m.layers[k.d] {
			needed[item{k.repo, digest.FromString(l)}] = needed[item{k.repo, digest.FromString(l)}] || stays
		}
		switch has := m.has(k.repo, k.d); {
		case !has:
			delete(m.used, k)
		case !stays:
			m.t.Fatalf("%s of %s is there, pulled %s ago", k.d, k.repo, m.Now().Sub(at))
		}
	}
	for k, at := range m.blobs {
		switch {
		case !m.hasBlob(k.repo, k.d):
			delete(m.blobs, k)
		case at.Before(since) && !needed[k]:
			m.t.Fatalf("blob %s of %s is there, pulled %s ago", k.d, k.repo, m.Now().Sub(at))
		}
	}
}

// leads says whether an index has a manifest.
func (m *model) leads(index, d digest.Digest) bool { return strings.Contains(m.data[index], string(d)) }

// models runs a model with many seeds, and with a store of files.
func models(t *testing.T, run func(t *testing.T, seed uint64, meta storage.Meta)) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { run(t, seed, mem.NewMeta()) })
	}
	t.Run("bolt", func(t *testing.T) { run(t, 16, openBolt(t)) })
}

// TestModelKeep has clients fetch and pull at random: what they have pulled for as long
// as it is kept stays, and nothing else does.
func TestModelKeep(t *testing.T) {
	models(t, func(t *testing.T, seed uint64, meta storage.Meta) {
		m := newModel(t, seed, meta, 5*day, 0)
		for n := range 40 {
			for range 25 {
				m.step()
			}
			m.collect()
			m.check(m.Now().Add(-m.keep))
			if n%4 == 3 {
				before := m.Now()
				for range 3 { // a manifest, its blobs, the bytes
					m.twice()
				}
				m.checkGone(before.Add(-m.keep - slack))
			}
		}
		m.report()
		m.pass(30 * day)
		for range 4 {
			m.twice()
		}
		if stats, err := m.Stats(t.Context()); err != nil || stats != (registry.Stats{}) {
			t.Errorf("left: %+v, %v", stats, err)
		}
	})
}

// TestModelQuota has clients fetch and pull at random from a cache that is too small:
// it is never too large for long, and what goes was pulled longest ago.
func TestModelQuota(t *testing.T) {
	const quota = 20_000
	models(t, func(t *testing.T, seed uint64, meta storage.Meta) {
		m := newModel(t, seed, meta, 0, quota)
		evicted := 0
		for range 60 {
			for range 5 {
				m.step()
			}
			before := maps.Clone(m.used)
			m.evict()
			m.check(m.Now().Add(-10 * time.Minute))
			evicted += m.checkOrder(before)
			if n := m.usage("hub"); n > quota && !m.evictor.Stats()[0].Stuck {
				t.Fatalf("the cache holds %d bytes", n)
			}
			m.collect()
		}
		counted := m.usage("hub")
		if err := errors.Join(m.Uncount(t.Context()), m.Recount(t.Context())); err != nil {
			t.Fatal(err)
		}
		if n := m.usage("hub"); n != counted {
			t.Errorf("the cache holds %d bytes, and %d were counted", n, counted)
		}
		if evicted < 20 {
			t.Errorf("only %d went", evicted)
		}
	})
}

// checkOrder fails if something went that was pulled after something that stays.
func (m *model) checkOrder(before map[item]time.Time) (gone int) {
	m.t.Helper()
	var last time.Time
	for k, at := range before {
		if !m.has(k.repo, k.d) {
			delete(m.used, k)
			gone++
			if at.After(last) {
				last = at
			}
		}
	}
	if gone == 0 {
		return 0
	}
	for k, at := range m.used {
		near := false
		for r := range m.running {
			near = near || r == k.d || m.leads(k.d, r) || m.leads(r, k.d)
		}
		if !near && at.Before(last.Add(-slack)) {
			m.t.Fatalf("%s of %s stays, pulled %s before what went", k.d, k.repo, last.Sub(at))
		}
	}
	for k := range m.blobs {
		if !m.hasBlob(k.repo, k.d) {
			delete(m.blobs, k)
		}
	}
	return gone
}

// TestConcurrently has clients, collections and evictions go on at the same time.
func TestConcurrently(t *testing.T) {
	w := newWorld(t, mem.NewMeta(), hub(2*day, 50_000))
	var clients, others sync.WaitGroup
	done := make(chan struct{})
	for i := range 4 {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		clients.Go(func() {
			for range 300 {
				repo := fmt.Sprintf("hub/%d", r.IntN(3))
				text := imageOf(layer(1000, fmt.Sprint(r.IntN(20))), layer(1000, fmt.Sprint(r.IntN(20))))
				d := digest.FromString(text)
				if r.IntN(3) == 0 {
					w.fetchManifest(repo, text, fmt.Sprintf("t%d", r.IntN(5)))
					w.fetchBlob(repo, layer(1000, fmt.Sprint(r.IntN(20))))
				}
				if _, _, err := w.served.Manifest(t.Context(), repo, registry.Reference{Digest: d}); err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
					t.Error(err)
				}
				w.pass(time.Duration(r.Int64N(int64(time.Hour))))
			}
		})
	}
	for _, run := range []func() error{
		func() error { return w.evictor.Evict(t.Context()) },
		func() error { return w.Collect(t.Context(), false, nil) },
		func() error { return w.LookCaches(t.Context()) },
		func() error { w.evictor.Set([]caching.Mirror{hub(2*day, 50_000)}); return w.pulls.Flush(t.Context()) },
		func() error {
			for _, err := range w.evictor.Plan(t.Context()) {
				if err != nil {
					return err
				}
			}
			_ = w.evictor.Stats()
			return nil
		},
	} {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	close(done)
	others.Wait()
	w.pass(time.Hour)
	w.evict()
	counted := w.usage("hub")
	if counted > 50_000 {
		t.Errorf("the cache holds %d bytes", counted)
	}
	if err := errors.Join(w.Uncount(t.Context()), w.Recount(t.Context())); err != nil {
		t.Fatal(err)
	}
	if n := w.usage("hub"); n != counted {
		t.Errorf("the cache holds %d bytes, and %d were counted", n, counted)
	}
	w.pass(10 * day)
	for range 4 {
		w.twice()
	}
	if stats, err := w.Stats(t.Context()); err != nil || stats != (registry.Stats{}) {
		t.Errorf("left: %+v, %v", stats, err)
	}
}
