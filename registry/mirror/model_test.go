package mirror_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
)

// model is a mirror as one would think of it: what the upstream has, what is cached,
// and until when something is taken for true.
type model struct {
	now      time.Time
	up       bool
	tags     map[string]digest.Digest // upstream
	has      map[digest.Digest]bool   // manifests upstream
	cached   map[digest.Digest]bool   // manifests
	named    map[string]digest.Digest // tags that are cached
	checked  map[string]time.Time
	absent   map[string]time.Time // until when it is remembered
	resting  map[string]time.Time
	blobs    map[digest.Digest]bool // cached
	upstream map[digest.Digest]bool // blobs upstream
}

const (
	interval = time.Minute
	negative = 30 * time.Second
)

// outcome is what a caller should get.
type outcome struct {
	d   digest.Digest
	err *registry.Error
}

// tag is what asking for a tag should bring.
func (m *model) tag(tag string) outcome {
	d, cached := m.named[tag]
	if cached && m.now.Sub(m.checked[tag]) < interval {
		return outcome{d: d}
	}
	switch {
	case !cached && m.now.Before(m.absent[tag]):
		return outcome{err: registry.ErrManifestUnknown}
	case cached && m.now.Before(m.resting[tag]):
		return outcome{d: d}
	case !m.up && cached:
		m.resting[tag] = m.now.Add(negative)
		return outcome{d: d}
	case !m.up:
		m.resting[tag] = m.now.Add(negative)
		return outcome{err: registry.ErrUnavailable}
	}
	now, ok := m.tags[tag]
	if !ok {
		m.absent[tag] = m.now.Add(negative)
		delete(m.named, tag)
		return outcome{err: registry.ErrManifestUnknown}
	}
	delete(m.absent, tag)
	m.named[tag], m.checked[tag], m.cached[now] = now, m.now, true
	return outcome{d: now}
}

// content is what asking for content by digest should bring.
func (m *model) content(d digest.Digest, cached, upstream map[digest.Digest]bool, unknown *registry.Error) outcome {
	switch {
	case cached[d]:
		return outcome{d: d}
	case m.now.Before(m.absent[string(d)]):
		return outcome{err: unknown}
	case !m.up:
		return outcome{err: registry.ErrUnavailable}
	case !upstream[d]:
		m.absent[string(d)] = m.now.Add(negative)
		return outcome{err: unknown}
	}
	cached[d] = true
	return outcome{d: d}
}

// TestModel does at random what can happen to a mirror, and compares what comes of it
// with the model.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, rand.New(rand.NewPCG(seed, 1)), 400) })
	}
}

func runModel(t *testing.T, random *rand.Rand, steps int) {
	u := newTheirs(t)
	change := func(up *mirror.Upstream, _ *mirror.Options) { up.Revalidate, up.Negative = interval, negative }
	o := newOurs(t, u, change)
	m := &model{
		now: o.clock.now(), up: true, tags: map[string]digest.Digest{}, has: map[digest.Digest]bool{}, cached: map[digest.Digest]bool{},
		named: map[string]digest.Digest{}, checked: map[string]time.Time{}, absent: map[string]time.Time{}, resting: map[string]time.Time{},
		blobs: map[digest.Digest]bool{}, upstream: map[digest.Digest]bool{},
	}
	images := []image{}
	for i := range 6 {
		images = append(images, push(t, memory(t), "x", "x", uint64(i), 100+i*50_000))
	}
	tags := []string{"a", "b", "c"}
	for step := range steps {
		img, tag := images[random.IntN(len(images))], tags[random.IntN(len(tags))]
		what := ""
		switch random.IntN(12) {
		case 0, 1:
			what = "push " + tag
			copyImage(t, u, img, tag)
			m.tags[tag], m.has[img.desc.Digest] = img.desc.Digest, true
			for d := range img.blobs {
				m.upstream[d] = true
			}
		case 2:
			what = "delete upstream " + tag
			if _, ok := m.tags[tag]; ok {
				if err := u.DeleteTag(t.Context(), "app", tag); err != nil {
					t.Fatal(err)
				}
				delete(m.tags, tag)
			}
		case 3:
			what = "time"
			d := time.Duration(random.IntN(80)) * time.Second
			o.clock.advance(d)
			m.now = m.now.Add(d)
		case 4:
			m.up = random.IntN(3) > 0
			what = fmt.Sprint("up: ", m.up)
			u.fail(nil)
			if !m.up {
				u.down([]int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout}[random.IntN(3)])
			}
		case 5:
			what = "drop " + tag
			err := o.DeleteTag(t.Context(), "hub/app", tag)
			if _, ok := m.named[tag]; ok != (err == nil) {
				t.Fatalf("step %d: drop of a tag that is cached: %v; %v", step, ok, err)
			}
			delete(m.named, tag)
		case 6:
			if random.IntN(6) > 0 {
				continue
			}
			what = "restart"
			o.settled(t)
			o.restart(t, u, change)
			m.absent, m.resting = map[string]time.Time{}, map[string]time.Time{}
		case 7, 8, 9:
			what = "pull " + tag
			want := m.tag(tag)
			m.compare(t, step, what, want, func() (digest.Digest, error) {
				if random.IntN(2) == 0 {
					desc, err := o.StatManifest(t.Context(), "hub/app", tagged(tag))
					return desc.Digest, err
				}
				data, desc, err := o.Manifest(t.Context(), "hub/app", tagged(tag))
				if err == nil && digest.FromBytes(data) != desc.Digest {
					t.Errorf("step %d: wrong bytes", step)
				}
				return desc.Digest, err
			})
		case 10:
			what = "pull " + string(img.desc.Digest[:12])
			m.compare(t, step, what, m.content(img.desc.Digest, m.cached, m.has, registry.ErrManifestUnknown), func() (digest.Digest, error) {
				_, desc, err := o.Manifest(t.Context(), "hub/app", digested(img.desc.Digest))
				return desc.Digest, err
			})
		case 11:
			d := img.layer()
			what = "blob " + string(d[:12])
			m.compare(t, step, what, m.content(d, m.blobs, m.upstream, registry.ErrBlobUnknown), func() (digest.Digest, error) {
				data, err := read(o, "hub/app", d)
				if err == nil && !bytes.Equal(data, img.blobs[d]) {
					t.Errorf("step %d: wrong bytes", step)
				}
				return d, err
			})
			o.settled(t)
		}
		if t.Failed() {
			t.Fatalf("step %d: %s", step, what)
		}
	}
	o.settled(t)
	for tag, want := range m.named {
		if desc, err := o.cache.StatManifest(t.Context(), "hub/app", tagged(tag)); err != nil || desc.Digest != want {
			t.Errorf("cache of tag %s: %s, %v; want %s", tag, desc.Digest, err, want)
		}
	}
}

func (m *model) compare(t *testing.T, step int, what string, want outcome, get func() (digest.Digest, error)) {
	t.Helper()
	got, err := get()
	switch {
	case want.err != nil && !errors.Is(err, want.err):
		t.Errorf("step %d: %s: %s, %v; want %s", step, what, got, err, want.err.Code)
	case want.err == nil && (err != nil || got != want.d):
		t.Errorf("step %d: %s: %s, %v; want %s", step, what, got, err, want.d)
	}
}

// copyImage pushes an image upstream.
func copyImage(t *testing.T, u *theirs, img image, tag string) {
	t.Helper()
	for d, data := range img.blobs {
		if _, err := u.PushBlob(t.Context(), "app", d, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := u.PushManifest(t.Context(), "app", registry.ManifestPush{
		Data: img.manifest, MediaType: img.desc.MediaType, Digest: img.desc.Digest, Tags: []string{tag},
	})
	if err != nil {
		t.Fatal(err)
	}
}
