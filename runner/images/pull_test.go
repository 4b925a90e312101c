package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

func threeLayers(t testing.TB) [][]byte {
	return [][]byte{
		layerTarOf(t,
			ent{name: "./", mode: 0o755}, ent{name: "bin/"}, ent{name: "bin/sh", body: "shell", mode: 0o4755}, ent{name: "tmp/", mode: 0o1777},
			ent{name: "data/"}, ent{name: "data/gone", body: "x"}, ent{name: "data/kept", body: "one"}, ent{name: "data/replaced", body: "one"},
			ent{name: "opaque/"}, ent{name: "opaque/old", body: "x"}, ent{name: "bin/ash", kind: '1', link: "bin/sh"}, ent{name: "lib", kind: '2', link: "usr/lib"},
		),
		layerTarOf(t, ent{name: "data/"}, ent{name: "data/.wh.gone"}, ent{name: "data/replaced", body: "two"}, ent{name: "opaque/"}, ent{name: "opaque/.wh..wh..opq"}, ent{name: "opaque/new", body: "y"}),
		layerTarOf(t, ent{name: "tmp/implied", body: "three", uid: 7}, ent{name: "data/again", kind: '1', link: "data/kept"}),
	}
}

func TestPull(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	img := reg.addImage(t, "localhost:5000/lib/x:latest", func(c *ocispec.Image) { c.Config.Labels = map[string]string{"a": "b"} }, threeLayers(t)...)
	id, msgs := s.pull(t, reg, "localhost:5000/lib/x")
	if id != img.id.String() {
		t.Errorf("ID %s, want %s", id, img.id)
	}
	if msgs.lines[0] != "latest: Pulling from lib/x" || msgs.count("Pulling fs layer") != 3 || msgs.count("Pull complete") != 3 || msgs.count("Verifying Checksum") != 3 || msgs.count("Download complete") != 3 {
		t.Error(msgs.lines)
	}
	equal(t, "last messages", msgs.lines[len(msgs.lines)-2:], []string{"Digest: " + img.manifest.Digest.String(), "Status: Downloaded newer image for localhost:5000/lib/x:latest"})
	equal(t, "events", s.events, []string{"pull localhost:5000/lib/x:latest localhost:5000/lib/x"})
	equal(t, "files", listing(t, s.mounted(t, id)), []string{
		"bin drwxr-xr-x", "bin/ash urwxr-xr-x shell", "bin/sh urwxr-xr-x shell",
		"data drwxr-xr-x", "data/again -rw-r--r-- one", "data/kept -rw-r--r-- one", "data/replaced -rw-r--r-- two",
		"lib Lrwxrwxrwx", "opaque drwxr-xr-x", "opaque/new -rw-r--r-- y", "tmp dtrwxrwxrwx", "tmp/implied -rw-r--r-- three",
	})
	_, msgs = s.pull(t, reg, "localhost:5000/lib/x")
	equal(t, "second pull", msgs.lines, []string{"latest: Pulling from lib/x", "Digest: " + img.manifest.Digest.String(), "Status: Image is up to date for localhost:5000/lib/x:latest"})
	s.wantFiles(t, 3, 5)
	for d, n := range reg.fetched {
		if n != 1 {
			t.Errorf("%s was fetched %d times", d, n)
		}
	}
}

// TestPullOutlives pulls, and opens the store again.
func TestPullOutlives(t *testing.T) {
	root := filepath.Join(t.TempDir(), "images")
	s, reg := openStore(t, root, Limits{}), newRegistry()
	reg.addImage(t, "r.test/x:latest", nil, threeLayers(t)...)
	id, _ := s.pull(t, reg, "r.test/x")
	want := listing(t, s.mounted(t, id))
	lower, _ := s.Layers(t.Context(), id)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, root, Limits{})
	if img, err := s.Get(t.Context(), "r.test/x"); err != nil || img.ID != id {
		t.Fatal(img, err)
	}
	again, _ := s.Layers(t.Context(), id)
	equal(t, "directories", again, lower)
	equal(t, "files", listing(t, s.mounted(t, id)), want)
}

// TestReboot loses trees that were not written out yet.
func TestReboot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "images")
	s, reg := openStore(t, root, Limits{}), newRegistry()
	reg.addImage(t, "r.test/x:latest", nil, threeLayers(t)...)
	id, _ := s.pull(t, reg, "r.test/x")
	want := listing(t, s.mounted(t, id))
	lower, _ := s.Layers(t.Context(), id)
	s.writeMu.Lock()
	c := change{layers: map[string]layerRecord{}}
	for key, l := range s.layers {
		l.Boot = "another"
		c.layers[key] = l
	}
	err := s.write(c)
	s.writeMu.Unlock()
	if cerr := s.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	if err := os.RemoveAll(lower[0]); err != nil { // one has no directory, one a damaged file
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(lower[2], "bin/sh"), 0); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, root, Limits{})
	equal(t, "files", listing(t, s.mounted(t, id)), want)
	again, _ := s.Layers(t.Context(), id)
	equal(t, "directories", again, lower)
	s.wantFiles(t, 3, 5)
}

func TestPullShares(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	l := threeLayers(t)
	reg.addImage(t, "r.test/one:latest", nil, l[0], l[1])
	two := reg.addImage(t, "r.test/two:latest", nil, l[0], l[0], l[1], l[2])
	s.pull(t, reg, "r.test/one")
	id, msgs := s.pull(t, reg, "r.test/two")
	if msgs.count("Already exists") != 3 || msgs.count("Pull complete") != 1 || msgs.count("Pulling fs layer") != 1 {
		t.Error(msgs.lines)
	}
	if lower, _ := s.Layers(t.Context(), id); len(lower) != 3 {
		t.Errorf("%v: a layer that is there twice counts once", lower)
	}
	s.mounted(t, id)
	if reg.fetched[two.layers[0].Digest] != 1 {
		t.Error("a layer was fetched again")
	}
	if _, err := s.Remove(t.Context(), "r.test/one", runner.ImageRemoveOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(t, 3, 5)
	if _, err := s.Remove(t.Context(), "r.test/two", runner.ImageRemoveOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(t, 0, 0)
}

// TestPullTogether pulls the same layers many times at once: each is fetched once.
func TestPullTogether(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	l := threeLayers(t)
	img := reg.addImage(t, "r.test/x:latest", nil, l...)
	reg.addImage(t, "r.test/y:latest", nil, append(slices.Clone(l), layerTarOf(t, ent{name: "more", body: "z"}))...)
	begin := make(chan struct{})
	var first sync.Once
	reg.onFetch = func(_ context.Context, d digest.Digest, r io.Reader) io.Reader {
		if d == img.layers[0].Digest {
			return io.MultiReader(waiter{begin}, r)
		}
		return r
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			msgs := &messages{}
			_, err := s.tryPull(t.Context(), reg, "r.test/"+string("xy"[i%2]), "", func(m jsonstream.Message) {
				msgs.progress(m)
				if m.Status == "Waiting" || m.Status == "Downloading" {
					first.Do(func() { close(begin) })
				}
			})
			if err != nil || msgs.count("Status: ") != 1 {
				t.Error(err, msgs.lines)
			}
		})
	}
	wg.Wait()
	if n := reg.fetched[img.layers[0].Digest]; n != 1 {
		t.Errorf("a layer was fetched %d times", n)
	}
	s.wantFiles(t, 4, 8)
}

// waiter is a reader that ends when its channel is closed.
type waiter struct{ c <-chan struct{} }

func (w waiter) Read([]byte) (int, error) {
	<-w.c
	return 0, io.EOF
}

// TestPullGivenUp has one of two clients leave in the middle, then the other.
func TestPullGivenUp(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	img := reg.addImage(t, "r.test/x:latest", nil, threeLayers(t)...)
	for _, survivors := range []int{1, 0} {
		begun, release := make(chan struct{}, 9), make(chan struct{})
		reg.onFetch = func(ctx context.Context, d digest.Digest, r io.Reader) io.Reader {
			if !slices.ContainsFunc(img.layers, func(l ocispec.Descriptor) bool { return l.Digest == d }) {
				return r
			}
			begun <- struct{}{}
			return &gate{ctx: ctx, open: release, r: r}
		}
		leaving, leave := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		go func() { _, err := s.tryPull(leaving, reg, "r.test/x", "", nil); errs <- err }()
		for range 3 {
			<-begun
		}
		if survivors == 1 {
			joined := make(chan struct{})
			var once sync.Once
			go func() {
				_, err := s.tryPull(t.Context(), reg, "r.test/x", "", func(m jsonstream.Message) {
					if m.Status == "Downloading" {
						once.Do(func() { close(joined) })
					}
				})
				errs <- err
			}()
			<-joined
		}
		leave()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("the client that left: %v", err)
		}
		close(release)
		if survivors == 0 {
			s.wantFiles(t, 0, 0)
			continue
		}
		if err := <-errs; err != nil {
			t.Error(err)
		}
		s.wantFiles(t, 3, 5)
		if _, err := s.Remove(t.Context(), "r.test/x", runner.ImageRemoveOptions{}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// gate holds a reader back until it is opened.
type gate struct {
	ctx  context.Context //nolint:containedctx // it lives for one fetch
	open <-chan struct{}
	r    io.Reader
}

func (g *gate) Read(p []byte) (int, error) {
	select {
	case <-g.open:
		return g.r.Read(p)
	case <-g.ctx.Done():
		return 0, g.ctx.Err()
	}
}

func TestPullPlatform(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	ids := map[string]string{}
	for _, arch := range []string{"arm64", "amd64", "386"} {
		img := reg.addImage(t, "", func(c *ocispec.Image) { c.Architecture = arch }, layerTarOf(t, ent{name: arch, body: arch}))
		d := img.manifest
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, d)
		ids[arch] = img.id.String()
	}
	root := reg.putJSON(t, ocispec.MediaTypeImageIndex, index)
	reg.tags["r.test/m:latest"] = root.Digest
	id, _ := s.pull(t, reg, "r.test/m")
	if id != ids["amd64"] {
		t.Errorf("%s was taken of %v", id, ids)
	}
	if img, err := s.Inspect(t.Context(), "r.test/m@"+root.Digest.String(), "", true); err != nil || img.RepoDigests[0] != "r.test/m@"+root.Digest.String() {
		t.Error(img, err)
	}
	if id, err := s.tryPull(t.Context(), reg, "r.test/m", "linux/arm64", nil); err != nil || id != ids["arm64"] {
		t.Error(id, err)
	}
	if _, err := s.Inspect(t.Context(), "r.test/m", `{"os":"linux","architecture":"amd64"}`, false); !errors.Is(err, runner.ErrNotFound) {
		t.Error(err)
	}
	_, err := s.tryPull(t.Context(), reg, "r.test/m", "linux/s390x", nil)
	if !errors.Is(err, runner.ErrNotFound) || err.Error() != "no matching manifest for linux/s390x in the manifest list entries" {
		t.Error(err)
	}
	if id, err := s.tryPull(t.Context(), reg, "r.test/m@"+index.Manifests[2].Digest.String(), "", nil); err != nil || id != ids["386"] {
		t.Error(id, err)
	}
}

// TestPullFormats unpacks what registries have beside gzip.
func TestPullFormats(t *testing.T) {
	plain := layerTarOf(t, ent{name: "file", body: strings.Repeat("content", 1000)})
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	half := len(plain) / 2
	for name, packed := range map[string][]byte{
		"plain": plain, "zstd": z.EncodeAll(plain, nil), "gzip": gz(t, plain),
		"gzip of two members": append(gz(t, plain[:half]), gz(t, plain[half:])...),
	} {
		t.Run(name, func(t *testing.T) {
			for _, tools := range []bool{true, false} {
				if !tools {
					t.Setenv("PATH", t.TempDir())
				}
				s, reg := newStore(t), newRegistry()
				created := testTime
				cfg := ocispec.Image{Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain)}}}
				m := reg.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: reg.putJSON(t, ocispec.MediaTypeImageConfig, cfg), Layers: []ocispec.Descriptor{reg.put(ocispec.MediaTypeImageLayer, packed)}})
				reg.tags["r.test/x:latest"] = m.Digest
				id, _ := s.pull(t, reg, "r.test/x")
				equal(t, "files", listing(t, s.mounted(t, id)), []string{"file -rw-r--r-- " + strings.Repeat("content", 1000)})
			}
		})
	}
}

func TestPullManyLayers(t *testing.T) {
	s, reg := newStore(t), newRegistry()
	var layers [][]byte
	for i := range maxLayers {
		layers = append(layers, layerTarOf(t, ent{name: fmt.Sprint("file", i), body: "x"}))
	}
	var open, most atomic.Int32
	reg.onFetch = func(_ context.Context, _ digest.Digest, r io.Reader) io.Reader {
		most.Store(max(most.Load(), open.Add(1)))
		return &onEOF{r, func() { open.Add(-1) }}
	}
	reg.addImage(t, "r.test/x:latest", nil, layers...)
	s.pull(t, reg, "r.test/x")
	s.wantFiles(t, maxLayers, maxLayers+2)
	if most.Load() > 3 {
		t.Errorf("%d layers were open at a time", most.Load())
	}
	reg.addImage(t, "r.test/y:latest", nil, append(layers, layerTarOf(t, ent{name: "one more"}))...)
	if _, err := s.tryPull(t.Context(), reg, "r.test/y", "", nil); err == nil || !strings.Contains(err.Error(), "128 layers") {
		t.Error(err)
	}
}

type onEOF struct {
	r io.Reader
	f func()
}

func (o *onEOF) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil {
		o.f()
	}
	return n, err
}
