package copying_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
)

func platforms(t *testing.T, list ...string) (all []copying.Platform) {
	t.Helper()
	for _, s := range list {
		p, err := copying.ParsePlatform(s)
		if err != nil || p.String() != s {
			t.Fatalf("%s: %v, %v", s, p, err)
		}
		all = append(all, p)
	}
	return all
}

func TestParsePlatform(t *testing.T) {
	for _, s := range []string{"", "linux", "linux/", "/amd64", "linux/amd64/", "Linux/amd64", "linux/amd64/v1/x", "linux/amd 64", "*/*"} {
		if p, err := copying.ParsePlatform(s); err == nil {
			t.Errorf("%q is taken for %v", s, p)
		}
	}
}

// of says which platform d is of.
func of(d registry.Descriptor, os, arch, variant string) registry.Descriptor {
	d.Platform = &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}
	return d
}

func TestPlatforms(t *testing.T) {
	src := local(t)
	images := map[string]registry.Descriptor{
		"linux/amd64": {}, "linux/arm64": {}, "linux/arm/v7": {}, "linux/arm/v6": {}, "windows/amd64": {},
	}
	var children []registry.Descriptor
	for name := range images {
		parts := append(strings.Split(name, "/"), "")
		images[name] = of(image(t, src, name, nil), parts[0], parts[1], parts[2])
		children = append(children, images[name])
	}
	attest := func(name string) registry.Descriptor {
		d := of(image(t, src, "attestation of "+name, nil), "unknown", "unknown", "")
		d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": string(images[name].Digest)}
		children = append(children, d)
		return d
	}
	amd, windows := attest("linux/amd64"), attest("windows/amd64")
	none := image(t, src, "of no platform", nil)
	children = append(children, none)
	index(t, src, children, "v1")
	source := copying.Source{Registry: src, Repo: from, Ref: tagged("v1")}

	for _, tt := range []struct{ want, copied []string }{
		{nil, []string{"linux/amd64", "linux/arm64", "linux/arm/v6", "linux/arm/v7", "windows/amd64"}},
		{[]string{"linux/amd64"}, []string{"linux/amd64"}},
		{[]string{"linux/amd64/v1", "linux/arm64/v8"}, []string{"linux/amd64", "linux/arm64"}},
		{[]string{"linux/arm"}, []string{"linux/arm/v6", "linux/arm/v7"}},
		{[]string{"linux/arm/v7", "linux/riscv64"}, []string{"linux/arm/v7"}},
		{[]string{"linux/amd64/v3", "windows/amd64"}, []string{"windows/amd64"}},
	} {
		dst := local(t)
		o := copying.Options{Platforms: platforms(t, tt.want...), Sparse: true}
		res, err := copying.Copy(t.Context(), source, copying.Target{Registry: dst, Repo: to, Tags: []string{"v1"}}, o)
		if err != nil {
			t.Errorf("%v: %v", tt.want, err)
			continue
		}
		has := func(d registry.Descriptor) bool {
			_, err := dst.StatManifest(t.Context(), to, registry.Reference{Digest: d.Digest})
			return err == nil
		}
		for name, d := range images {
			if want := slices.Contains(tt.copied, name); has(d) != want {
				t.Errorf("%v: %s is there is %v", tt.want, name, !want)
			}
		}
		for name, d := range map[string]registry.Descriptor{"linux/amd64": amd, "windows/amd64": windows} {
			if want := slices.Contains(tt.copied, name); has(d) != want {
				t.Errorf("%v: attestation of %s is there is %v", tt.want, name, !want)
			}
		}
		if !has(none) {
			t.Errorf("%v: what is of no platform is not there", tt.want)
		}
		for what, some := range map[string]bool{"those": true, "all": len(tt.want) == 0, "others": false} {
			list := map[string][]copying.Platform{"those": o.Platforms, "others": platforms(t, "linux/mips")}[what]
			if whole, err := copying.Complete(t.Context(), dst, to, res.Root.Digest, list); err != nil || whole != some {
				t.Errorf("%v: complete for %s is %v, %v", tt.want, what, whole, err)
			}
		}
	}

	dst := local(t)
	target := copying.Target{Registry: dst, Repo: to, Tags: []string{"v1"}}
	_, err := copying.Copy(t.Context(), source, target, copying.Options{Platforms: platforms(t, "linux/mips"), Sparse: true})
	if !errors.Is(err, registry.ErrManifestUnknown) || !strings.Contains(err.Error(), "none of the platforms linux/mips") {
		t.Errorf("none of its platforms: %v", err)
	}
}

// A target that holds manifests alone is completed, and asks the source for no more
// than is missing.
func TestSparse(t *testing.T) {
	src, dst := local(t), local(t)
	child := image(t, src, "amd64", nil)
	root := index(t, src, []registry.Descriptor{child}, "v1")
	for _, d := range []registry.Descriptor{child, root} {
		data, _, err := src.Manifest(t.Context(), from, registry.Reference{Digest: d.Digest})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dst.PushManifest(t.Context(), to, registry.ManifestPush{Data: data, Digest: d.Digest, Sparse: true, Tags: []string{"v1"}}); err != nil {
			t.Fatal(err)
		}
	}
	if whole, err := copying.Complete(t.Context(), dst, to, root.Digest, nil); whole || err != nil {
		t.Errorf("manifests alone are complete: %v, %v", whole, err)
	}
	counted := &counting{Registry: src}
	source := copying.Source{Registry: counted, Repo: from, Ref: registry.Reference{Digest: root.Digest}}
	res, err := copying.Copy(t.Context(), source, copying.Target{Registry: dst, Repo: to, Tags: []string{"v1"}}, copying.Options{Sparse: true})
	if err != nil || res.Blobs.Copied != 3 || counted.manifests.Load() != 0 {
		t.Errorf("got %+v, %v, %d manifests were read at the source", res, err, counted.manifests.Load())
	}
	if whole, err := copying.Complete(t.Context(), dst, to, root.Digest, nil); !whole || err != nil {
		t.Errorf("complete: %v, %v", whole, err)
	}
	same(t, dst, "v1", root)
	if whole, err := copying.Complete(t.Context(), dst, to, digest.FromString("nothing"), nil); whole || err != nil {
		t.Errorf("what is not there is complete: %v, %v", whole, err)
	}
}

// counting counts what is read.
type counting struct {
	registry.Registry
	manifests, blobs, now, most atomic.Int64
}

func (c *counting) Manifest(ctx context.Context, repo string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	c.manifests.Add(1)
	return c.Registry.Manifest(ctx, repo, ref)
}

func (c *counting) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	c.blobs.Add(1)
	now := c.now.Add(1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	r, desc, err := c.Registry.Blob(ctx, repo, d)
	if err != nil {
		c.now.Add(-1)
		return nil, desc, err
	}
	return &countedReader{r, c}, desc, nil
}

type countedReader struct {
	io.ReadSeekCloser
	c *counting
}

func (r *countedReader) Close() error {
	r.c.now.Add(-1)
	return r.ReadSeekCloser.Close()
}

// Copies of one group that go on at once send each blob once, and not too many at a
// time.
func TestGroup(t *testing.T) {
	src, dst := local(t), local(t)
	const images = 20
	for i := range images {
		image(t, src, fmt.Sprint("image ", i), nil, fmt.Sprint("v", i))
	}
	counted := &counting{Registry: src}
	group := copying.NewGroup(3)
	var copies sync.WaitGroup
	for i := range images {
		copies.Go(func() {
			source := copying.Source{Registry: counted, Repo: from, Ref: tagged(fmt.Sprint("v", i))}
			_, err := copying.Copy(t.Context(), source, copying.Target{Registry: dst, Repo: to, Tags: []string{fmt.Sprint("v", i)}}, copying.Options{Group: group})
			if err != nil {
				t.Error(err)
			}
		})
	}
	copies.Wait()
	if got := counted.blobs.Load(); got != 2*images+1 {
		t.Errorf("%d blobs were sent, want %d", got, 2*images+1)
	}
	if got := counted.most.Load(); got > 3 {
		t.Errorf("%d blobs were sent at once, want 3 at most", got)
	}
}

// Who waits for a blob that another copies gives up with its context, and gets it when
// the other has failed.
func TestGroupFails(t *testing.T) {
	src, dst := local(t), local(t)
	image(t, src, "amd64", nil, "v1")
	group := copying.NewGroup(0)
	source := func(ctx context.Context, r copying.Reader) error {
		_, err := copying.Copy(ctx, copying.Source{Registry: r, Repo: from, Ref: tagged("v1")},
			copying.Target{Registry: dst, Repo: to, Tags: []string{"v1"}}, copying.Options{Group: group})
		return err
	}
	stuck := &stuckReader{Registry: src, begun: make(chan struct{}), end: make(chan struct{})}
	first := make(chan error, 1)
	go func() { first <- source(t.Context(), stuck) }()
	<-stuck.begun
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { second <- source(ctx, stuck) }()
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	third := make(chan error, 1)
	go func() { third <- source(t.Context(), src) }()
	close(stuck.end)
	if err := <-first; !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("who failed: %v", err)
	}
	if err := <-third; err != nil {
		t.Errorf("who waited: %v", err)
	}
}

// stuckReader fails to give blobs, when it is told to.
type stuckReader struct {
	registry.Registry
	once       sync.Once
	begun, end chan struct{}
}

func (s *stuckReader) Blob(ctx context.Context, _ string, _ digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	s.once.Do(func() { close(s.begun) })
	select {
	case <-s.end:
	case <-ctx.Done():
	}
	return nil, registry.Descriptor{}, registry.ErrUnavailable
}
