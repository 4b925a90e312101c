package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// layout is a directory in the OCI image layout, the form in which clients are
// given images and give them back.
type layout struct {
	t   *testing.T
	dir string
}

func newLayout(t *testing.T) layout {
	t.Helper()
	l := layout{t, t.TempDir()}
	l.write(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

func (l layout) write(name string, data []byte) {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func (l layout) read(d digest.Digest) []byte {
	l.t.Helper()
	data, err := os.ReadFile(filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		l.t.Fatal(err)
	}
	return data
}

// blob adds bytes to the layout.
func (l layout) blob(mediaType string, data []byte) ocispec.Descriptor {
	l.t.Helper()
	d := digest.FromBytes(data)
	l.write(filepath.Join("blobs", d.Algorithm().String(), d.Encoded()), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (l layout) json(mediaType string, v any) ocispec.Descriptor {
	l.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, data)
}

// image adds an image of layers, each a tar archive.
func (l layout) image(arch string, layers ...[]byte) ocispec.Descriptor {
	l.t.Helper()
	created := time.Unix(1_700_000_000, 0).UTC()
	config := ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		Config: ocispec.ImageConfig{
			Cmd:    []string{"/bin/busybox", "true"},
			Labels: map[string]string{ocispec.AnnotationDescription: "An image for " + arch},
		},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(layer))
		config.History = append(config.History, ocispec.History{Created: &created, CreatedBy: "e2e"})
		m.Layers = append(m.Layers, l.blob(ocispec.MediaTypeImageLayerGzip, gzipped(l.t, layer)))
	}
	m.Config = l.json(ocispec.MediaTypeImageConfig, config)
	desc := l.json(ocispec.MediaTypeImageManifest, m)
	desc.Platform = &config.Platform
	return desc
}

// index adds an index of manifests.
func (l layout) index(manifests ...ocispec.Descriptor) ocispec.Descriptor {
	l.t.Helper()
	return l.json(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}

// name makes d the one image of the layout, called latest.
func (l layout) name(d ocispec.Descriptor) {
	l.t.Helper()
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "latest"}
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.write(ocispec.ImageIndexFile, data)
}

// sampleLayers returns two layers: one with a static busybox, so that the image
// runs, and one of random bytes. No other image has either.
func sampleLayers(t *testing.T) [][]byte {
	t.Helper()
	busybox, err := os.ReadFile(berthtest.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{
		tarball(t, map[string][]byte{"bin/busybox": busybox, "etc/id": randomBytes(rand.Uint64(), 16)}),
		tarball(t, map[string][]byte{"data/random": randomBytes(rand.Uint64(), 1<<20), "data/empty": nil}),
	}
}

// sampleImage returns a layout with an image for one platform.
func sampleImage(t *testing.T) (layout, ocispec.Descriptor) {
	t.Helper()
	l := newLayout(t)
	d := l.image("amd64", sampleLayers(t)...)
	l.name(d)
	return l, d
}

// sampleIndex returns a layout with an index of two images that share a layer.
func sampleIndex(t *testing.T) (layout, ocispec.Descriptor) {
	t.Helper()
	l := newLayout(t)
	layers := sampleLayers(t)
	own := tarball(t, map[string][]byte{"data/arm": randomBytes(rand.Uint64(), 1<<16)})
	d := l.index(l.image("amd64", layers...), l.image("arm64", layers[1], own))
	l.name(d)
	return l, d
}

func tarball(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name])), ModTime: time.Unix(1_700_000_000, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// randomBytes are the same for the same seed.
func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	copy(key[:], fmt.Sprintf("%032x", seed))
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	return data
}

// tree is the contents of a directory: file name to hash.
type tree map[string]string

func readTree(t *testing.T, dir string) tree {
	t.Helper()
	files := tree{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files[name] = hashFile(t, filepath.Join(dir, name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no files in %s", dir)
	}
	return files
}

// sameTree fails the test unless two directories hold the same files.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	readTree(t, got).same(t, readTree(t, want))
}

func (got tree) same(t *testing.T, want tree) {
	t.Helper()
	for name := range want {
		if got[name] == "" {
			t.Errorf("%s did not come back", name)
		} else if got[name] != want[name] {
			t.Errorf("%s came back changed", name)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s came back and was not sent", name)
		}
	}
}

// sameFile fails the test unless two files have the same bytes.
func sameFile(t *testing.T, want, got string) {
	t.Helper()
	if hashFile(t, want) != hashFile(t, got) {
		t.Errorf("%s came back changed", filepath.Base(want))
	}
}

func hashFile(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// sameBlobs fails the test unless two layouts hold the same blobs.
func sameBlobs(t *testing.T, want, got string) {
	t.Helper()
	sameTree(t, filepath.Join(want, "blobs"), filepath.Join(got, "blobs"))
}

// writeFile writes a file of the test's own and returns its path.
func writeFile(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// decode reads JSON, or fails the test.
func decode[V any](t *testing.T, text string) (v V) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}
