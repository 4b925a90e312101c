package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// elsewhere is what somebody else on the host has made for a store.
type elsewhere struct {
	t     *testing.T
	dir   string
	built Built
	diff  []digest.Digest
}

func newElsewhere(t *testing.T, beside *testStore, names ...string) *elsewhere {
	t.Helper()
	dir := filepath.Join(filepath.Dir(beside.opts.Root), "elsewhere")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &elsewhere{t: t, dir: dir, built: Built{Names: names}}
}

// layer adds a layer of one file: its archive, and its tree unless it is to be
// unpacked.
func (e *elsewhere) layer(name, body string, tree bool) *elsewhere {
	e.t.Helper()
	archive := layerTarOf(e.t, ent{name: name, body: body})
	d := digest.FromBytes(archive)
	l := BuiltLayer{
		Blob: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(archive))}, DiffID: d,
		File: filepath.Join(e.dir, d.Encoded()),
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			e.t.Fatal(err)
		}
	}
	write(l.File, string(archive))
	if tree {
		l.Tree = filepath.Join(e.dir, "tree-"+name)
		if err := os.MkdirAll(l.Tree, 0o755); err != nil {
			e.t.Fatal(err)
		}
		write(filepath.Join(l.Tree, name), body)
	}
	e.built.Layers, e.diff = append(e.built.Layers, l), append(e.diff, d)
	return e
}

func (e *elsewhere) image() Built {
	e.t.Helper()
	var err error
	e.built.Config, err = json.Marshal(dockerspec.DockerOCIImage{Image: ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: e.diff},
	}})
	if err != nil {
		e.t.Fatal(err)
	}
	return e.built
}

func (s *testStore) addBuilt(t *testing.T, b Built) string {
	t.Helper()
	id, err := s.AddBuilt(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestAddBuilt(t *testing.T) {
	s := newStore(t)
	b := newElsewhere(t, s, "built", "built:2").layer("a", "one", true).layer("b", "two", false).image()
	id := s.addBuilt(t, b)
	root := s.mounted(t, id)
	if got := read(t, root, "a") + read(t, root, "b"); got != "onetwo" {
		t.Errorf("its files are %q", got)
	}
	// The tree is in the store, and still where it was for him who made it.
	target, err := os.Readlink(b.Layers[0].Tree)
	if err != nil || filepath.Dir(target) != s.path("layers") {
		t.Errorf("the tree has become %q, %v", target, err)
	}
	if got := read(t, b.Layers[0].Tree, "a"); got != "one" {
		t.Errorf("by its old name it has %q", got)
	}
	for _, l := range b.Layers {
		same, err := os.Stat(l.File)
		there, err2 := os.Stat(s.blobPath(l.Blob.Digest))
		if err != nil || err2 != nil || !os.SameFile(same, there) {
			t.Errorf("blob %s was copied: %v %v", l.Blob.Digest, err, err2)
		}
	}
	equal(t, "events", s.events, []string{"create " + id + " " + id, "tag " + id + " built:latest", "tag " + id + " built:2"})
	for _, name := range []string{"built", "built:2"} {
		if img, err := s.Get(t.Context(), name); err != nil || img.ID != id {
			t.Errorf("%s is %s, %v", name, img.ID, err)
		}
	}
	// Once more: nothing is new, and nothing is taken.
	if again := s.addBuilt(t, b); again != id {
		t.Errorf("the same image is %s", again)
	}
	s.wantFiles(t, 2, 4)
}

func TestBuiltTreesAreShared(t *testing.T) {
	s := newStore(t)
	b := newElsewhere(t, s, "built").layer("a", "one", true).image()
	id := s.addBuilt(t, b)
	dir, err := os.Readlink(b.Layers[0].Tree)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.ShareTree(b.Layers[0].DiffID, nil); got != dir {
		t.Errorf("the tree of the layer is %q, not %q", got, dir)
	}
	if got := s.ShareTree(b.Layers[0].DiffID, []string{"/other"}); got != "" {
		t.Errorf("on another layer it would be %q", got)
	}
	if _, err := s.Remove(t.Context(), id, runner.ImageRemoveOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, "a"); got != "one" {
		t.Errorf("without the image it has %q", got)
	}
	// The next process knows who has it.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := Open(t.Context(), Options{
		Root: s.opts.Root, Log: slog.New(slog.DiscardHandler), Shared: func() ([]string, error) { return []string{dir, dir}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close() })
	next.Unshare(dir)
	if got := read(t, dir, "a"); got != "one" {
		t.Errorf("with one who has it the tree has %q", got)
	}
	next.Unshare(dir)
	next.Unshare(dir)     // who has nothing changes nothing
	next.Unshare("/etc/") // nor who never had
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("nobody has the tree, and it is there: %v", err)
	}
}

func TestBuiltTreeStaysWithItsMaker(t *testing.T) {
	s := newStore(t)
	b := newElsewhere(t, s, "built").layer("a", "one", true).layer("b", "two", false).image()
	if err := os.WriteFile(b.Layers[1].File, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddBuilt(t.Context(), b); err == nil {
		t.Fatal("a layer that is not what it should be was taken")
	}
	if info, err := os.Lstat(b.Layers[0].Tree); err != nil || !info.IsDir() {
		t.Errorf("the tree is not back: %v %v", info, err)
	}
	if got := read(t, b.Layers[0].Tree, "a"); got != "one" {
		t.Errorf("it has %q", got)
	}
	s.wantFiles(t, 0, 0)
}

func TestAddBuiltRefuses(t *testing.T) {
	s := newStore(t)
	good := newElsewhere(t, s).layer("a", "one", true).image()
	for what, change := range map[string]func(*Built){
		"a name with a digest": func(b *Built) { b.Names = []string{"x@" + digest.FromString("").String()} },
		"a name that is none":  func(b *Built) { b.Names = []string{"A b"} },
		"no configuration":     func(b *Built) { b.Config = []byte("{") },
		"too few layers":       func(b *Built) { b.Layers = nil },
		"another layer":        func(b *Built) { b.Layers = []BuiltLayer{{Blob: b.Layers[0].Blob, DiffID: digest.FromString("")}} },
	} {
		b := good
		change(&b)
		if _, err := s.AddBuilt(t.Context(), b); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.wantFiles(t, 0, 0)
}

func TestBuiltIsPackedToBePushed(t *testing.T) {
	s := newStore(t)
	b := newElsewhere(t, s, "built").layer("a", strings.Repeat("one", 10_000), true).layer("b", "two", false).image()
	id := s.addBuilt(t, b)
	ref, err := reference.ParseNormalizedNamed("built:latest")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is done
		out, err := s.Export(t.Context(), ref, "")
		if err != nil {
			t.Fatal(err)
		}
		if out.ID != id {
			t.Errorf("the image has become %s", out.ID)
		}
		for _, desc := range out.Blobs[1:] {
			if desc.MediaType != dockerLayerGzip {
				t.Errorf("a layer goes as %s", desc.MediaType)
			}
			raw, err := s.readBlob(desc.Digest)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := decompress(t, raw)
			if got := digest.FromBytes(plain); err != nil || got != out.DiffIDs[desc.Digest] {
				t.Errorf("layer %s is %s, %v", out.DiffIDs[desc.Digest], got, err)
			}
		}
		out.Release()
	}
	// What was not packed is gone from here.
	s.wantFiles(t, 2, 4)
}

func decompress(t *testing.T, b []byte) ([]byte, error) {
	t.Helper()
	z, err := newUnpacker(t.Context(), packedGzip)
	if err != nil {
		return nil, err
	}
	go func() {
		_, _ = z.in.Write(b)
		_ = z.in.Close()
	}()
	var out bytes.Buffer
	_, err = out.ReadFrom(z.out)
	return out.Bytes(), errors.Join(err, z.close())
}
