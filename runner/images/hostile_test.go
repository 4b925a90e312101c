package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// TestHostileEntries pulls layers that want something outside of their directory,
// or what no layer may hold. What is refused leaves nothing; what is not stays
// inside.
func TestHostileEntries(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 30)
	for name, c := range map[string]struct {
		entries []ent
		err     string   // empty: it is unpacked
		has     []string // files that are then in the layer
	}{
		"dots":                     {entries: []ent{{name: up + outside[1:] + "/new", body: "x"}}, err: "climbs out"},
		"dots in the middle":       {entries: []ent{{name: "a/../../b", body: "x"}}, err: "climbs out"},
		"dots inside":              {entries: []ent{{name: "a/../b", body: "x"}}, has: []string{"b"}},
		"absolute":                 {entries: []ent{{name: outside + "/new", body: "x"}}, has: []string{outside + "/new"}},
		"absolute symlink":         {entries: []ent{{name: "l", kind: '2', link: outside}, {name: "l/new", body: "x"}}, has: []string{outside + "/new"}},
		"climbing symlink":         {entries: []ent{{name: "l", kind: '2', link: up + outside[1:]}, {name: "l/new", body: "x"}}, err: "climbs out"},
		"symlink to itself":        {entries: []ent{{name: "l", kind: '2', link: "l"}, {name: "l/new", body: "x"}}, err: "too many symbolic links"},
		"symlinks in a ring":       {entries: []ent{{name: "a", kind: '2', link: "b/x"}, {name: "b", kind: '2', link: "a/x"}, {name: "a/new", body: "x"}}, err: "too many symbolic links"},
		"file over a symlink":      {entries: []ent{{name: "l", kind: '2', link: secret}, {name: "l", body: "x"}}, has: []string{"l"}},
		"directory over a symlink": {entries: []ent{{name: "l", kind: '2', link: outside}, {name: "l/", mode: 0o777}, {name: "l/new", body: "x"}}, has: []string{"l/new"}},
		"mode through a symlink":   {entries: []ent{{name: "l", kind: '2', link: secret, mode: 0o777, uid: 5}}, has: []string{"l"}},
		"parent swapped":           {entries: []ent{{name: "d/"}, {name: "d/a", body: "x"}, {name: "d", kind: '2', link: outside}, {name: "d/new", body: "x"}}, has: []string{outside + "/new"}},
		"parent swapped, climbing": {entries: []ent{{name: "d/"}, {name: "d/a", body: "x"}, {name: "d", kind: '2', link: up}, {name: "d/new", body: "x"}}, err: "climbs out"},
		"hard link out":            {entries: []ent{{name: "h", kind: '1', link: up + secret[1:]}}, err: "climbs out"},
		"hard link, absolute":      {entries: []ent{{name: "h", kind: '1', link: secret}}, err: "no layer has that file"},
		"hard link by a symlink":   {entries: []ent{{name: "l", kind: '2', link: outside}, {name: "h", kind: '1', link: "l/secret"}}, err: "no layer has that file"},
		"hard link to a symlink":   {entries: []ent{{name: "l", kind: '2', link: secret}, {name: "h", kind: '1', link: "l"}, {name: "h", body: "x"}}, has: []string{"h"}},
		"hard link to itself":      {entries: []ent{{name: "h", body: "x"}, {name: "h", kind: '1', link: "h"}}, err: "itself"},
		"hard link to a directory": {entries: []ent{{name: "d/"}, {name: "h", kind: '1', link: "d"}}, err: "directory"},
		"hard link to the root":    {entries: []ent{{name: "h", kind: '1', link: "/"}}, err: "root"},
		"whiteout as symlink":      {entries: []ent{{name: ".wh.x", kind: '2', link: secret}}, err: "no regular file"},
		"opaque as symlink":        {entries: []ent{{name: "d/"}, {name: "d/.wh..wh..opq", kind: '2', link: secret}}, err: "no regular file"},
		"whiteout as device":       {entries: []ent{{name: ".wh.x", kind: '3', dev: [2]int64{1, 3}}}, err: "no regular file"},
		"whiteout of nothing":      {entries: []ent{{name: "d/.wh."}}, err: "deletes"},
		"whiteout of dots":         {entries: []ent{{name: "d/.wh..."}}, err: "deletes"},
		"whiteout of dot":          {entries: []ent{{name: "d/.wh.."}}, err: "deletes"},
		"whiteout by a symlink":    {entries: []ent{{name: "l", kind: '2', link: outside}, {name: "l/.wh.secret"}}, has: []string{outside + "/secret"}},
		"opaque by a symlink":      {entries: []ent{{name: "l", kind: '2', link: outside}, {name: "l/.wh..wh..opq"}}, has: []string{outside}},
		"device 0/0":               {entries: []ent{{name: "n", kind: '3'}}, err: "0/0"},
		"device":                   {entries: []ent{{name: "null", kind: '3', dev: [2]int64{1, 3}, mode: 0o666}}, has: []string{"null"}},
		"overlay attributes":       {entries: []ent{{name: "d/", xattr: map[string]string{"trusted.overlay.redirect": "/etc", "user.ok": "1"}}}, has: []string{"d"}},
		"root as a file":           {entries: []ent{{name: ".", kind: '0', body: "x"}}, err: "root of a layer"},
		"root as a symlink":        {entries: []ent{{name: ".", kind: '2', link: outside}, {name: "new", body: "x"}}, err: "root of a layer"},
		"file as a directory":      {entries: []ent{{name: "f", body: "x"}, {name: "f/new", body: "x"}}, err: "not a directory"},
		"deep":                     {entries: []ent{{name: strings.Repeat("d/", 300) + "f", body: "x"}}, err: "deep"},
		"deep by symlinks":         {entries: []ent{{name: strings.Repeat("d/", 200)}, {name: "l", kind: '2', link: strings.Repeat("d/", 200)}, {name: "l/" + strings.Repeat("d/", 200) + "f", body: "x"}}, err: "deep"},
		"long name":                {entries: []ent{{name: strings.Repeat(strings.Repeat("n", 200)+"/", 25) + "f", body: "x"}}, err: "bytes"},
		"owner":                    {entries: []ent{{name: "f", body: "x", uid: 1<<32 - 1}}, err: "no such owner"},
		"unknown type":             {entries: []ent{{name: "f", kind: 'Z'}}, err: "unknown type"},
		"time":                     {entries: []ent{{name: "f", time: time.Unix(1<<60, 0)}, {name: "g", time: time.Unix(-1<<40, 0)}}, has: []string{"f", "g"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, reg := newStore(t), newRegistry()
			reg.addImage(t, "r.test/x:latest", nil, layerTarOf(t, ent{name: "base", body: "base"}), layerTarOf(t, c.entries...))
			id, err := s.tryPull(t.Context(), reg, "r.test/x", "", nil)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !errors.Is(err, runner.ErrInvalid)) {
				t.Fatalf("got error %v, want %q", err, c.err)
			}
			if err != nil {
				s.wantFiles(t, 0, 0)
			} else {
				lower, _ := s.Layers(t.Context(), id)
				for _, f := range c.has {
					if _, err := os.Lstat(filepath.Join(lower[0], f)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	if got := listing(t, outside); len(got) != 1 || got[0] != "secret -rw------- secret" {
		t.Errorf("outside: %v", got)
	}
}

// endless is a gzip or zstd archive of zeros in a file of n bytes.
func endless(t *testing.T, n int64, w io.WriteCloser) digest.Digest {
	t.Helper()
	diff := digest.SHA256.Digester()
	tw := tar.NewWriter(io.MultiWriter(w, diff.Hash()))
	if err := tw.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: n, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(tw, zeros{}, n); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tw.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return diff.Digest()
}

// customImage puts an image of one layer, packed in any way, into the registry.
func (m *memRegistry) customImage(t *testing.T, ref string, diffID digest.Digest, packed []byte) ocispec.Descriptor {
	t.Helper()
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}}
	layer := m.put(ocispec.MediaTypeImageLayerGzip, packed)
	d := m.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: m.putJSON(t, ocispec.MediaTypeImageConfig, cfg), Layers: []ocispec.Descriptor{layer},
	})
	m.tags[ref] = d.Digest
	return layer
}

func TestBombs(t *testing.T) {
	limits := Limits{Floor: 32 << 20, Ratio: 50, Entries: 1000}
	const size = 128 << 20
	var gzipped, zstded bytes.Buffer
	gw, _ := gzip.NewWriterLevel(&gzipped, gzip.BestCompression)
	zw, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	diff := endless(t, size, gw)
	endless(t, size, zw)

	var many []ent
	for i := range 1000 {
		many = append(many, ent{name: fmt.Sprint(i)})
	}
	manyTar := layerTarOf(t, many...)
	// A file of 100 GB of which the archive has nothing: GNU's sparse form.
	sparse := layerTarOf(t, ent{name: "f", body: "x"})
	copy(sparse, sparseHeader(100<<30))

	after := append(layerTarOf(t, ent{name: "f"}), make([]byte, size)...) // zeros behind the end
	for name, c := range map[string]struct {
		diff   digest.Digest
		packed []byte
		err    string
	}{
		"gzip":          {diff, gzipped.Bytes(), "unpacks to more than 32MiB"},
		"zstd":          {diff, zstded.Bytes(), "unpacks to more than 32MiB"},
		"after the end": {digest.FromBytes(after), gz(t, after), "unpacks to more than 32MiB"},
		"entries":       {digest.FromBytes(manyTar), gz(t, manyTar), "1000 entries or more"},
		"sparse":        {digest.FromBytes(sparse), gz(t, sparse), "files are more than 32MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			s, reg := openStore(t, filepath.Join(t.TempDir(), "images"), limits), newRegistry()
			reg.customImage(t, "r.test/x:latest", c.diff, c.packed)
			_, err := s.tryPull(t.Context(), reg, "r.test/x", "", nil)
			if err == nil || !strings.Contains(err.Error(), c.err) || !errors.Is(err, runner.ErrPrecondition) {
				t.Errorf("got %v, want %q", err, c.err)
			}
			s.wantFiles(t, 0, 0)
			// The same by import, whose size no one knows before.
			if _, err := s.Import(t.Context(), runner.ImportRequest{}, bytes.NewReader(c.packed), nil); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("import: got %v, want %q", err, c.err)
			}
			s.wantFiles(t, 0, 0)
		})
	}
	s := openStore(t, filepath.Join(t.TempDir(), "images"), limits)
	if err := s.Load(t.Context(), &gzipped, true, nil); err == nil || !strings.Contains(err.Error(), "more than 32MiB") {
		t.Errorf("load: %v", err)
	}
	s.wantFiles(t, 0, 0)
}

// sparseHeader is the header of a file of size bytes, all of them a hole.
func sparseHeader(size int64) []byte {
	b := make([]byte, 512)
	copy(b, "f")
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:], "00000000001\x00") // one byte is stored
	copy(b[136:], "00000000000\x00")
	copy(b[257:], "ustar  \x00")
	b[156] = 'S'
	copy(b[386:], fmt.Sprintf("%011o\x00", size-1))
	copy(b[398:], "00000000001\x00")
	copy(b[483:], fmt.Sprintf("%011o\x00", size))
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func TestFullDisk(t *testing.T) {
	s, reg := openStore(t, filepath.Join(t.TempDir(), "images"), Limits{MinFree: 1 << 60}), newRegistry()
	reg.addImage(t, "r.test/x:latest", nil, threeLayers(t)...)
	if _, err := s.tryPull(t.Context(), reg, "r.test/x", "", nil); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Error(err)
	}
	s.wantFiles(t, 0, 0)
}

// TestLies pulls what is not what it says.
func TestLies(t *testing.T) {
	layer := layerTarOf(t, ent{name: "file", body: strings.Repeat("0123456789", 100_000)})
	packed := gz(t, layer)
	for name, c := range map[string]struct {
		diff  digest.Digest
		alter func(d digest.Digest, layer ocispec.Descriptor, b []byte) []byte
		err   string
	}{
		"diff ID":    {diff: digest.FromString("else"), err: "don't match image configuration"},
		"short":      {diff: digest.FromBytes(layer), alter: onlyLayer(func(b []byte) []byte { return b[:len(b)-100] }), err: "verification failed"},
		"empty":      {diff: digest.FromBytes(layer), alter: onlyLayer(func([]byte) []byte { return nil }), err: "verification failed"},
		"long":       {diff: digest.FromBytes(layer), alter: onlyLayer(func(b []byte) []byte { return append(slices.Clone(b), 0) }), err: "more than"},
		"flipped":    {diff: digest.FromBytes(layer), alter: onlyLayer(func(b []byte) []byte { b = slices.Clone(b); b[len(b)/2] ^= 1; return b }), err: "verification failed"},
		"other":      {diff: digest.FromBytes(layer), alter: onlyLayer(func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }), err: "verification failed"},
		"manifest":   {diff: digest.FromBytes(layer), alter: func(_ digest.Digest, _ ocispec.Descriptor, b []byte) []byte { return append(slices.Clone(b), ' ') }, err: "what the registry sent"},
		"not a tar":  {diff: digest.FromBytes(layer), alter: nil, err: ""},
		"bad digest": {diff: "sha256:../../../etc/passwd", err: "invalid digest"},
		"sha512":     {diff: digest.SHA512.FromString("x"), err: "only sha256"},
	} {
		t.Run(name, func(t *testing.T) {
			s, reg := newStore(t), newRegistry()
			l := reg.customImage(t, "r.test/x:latest", c.diff, packed)
			if c.alter != nil {
				reg.onFetch = func(_ context.Context, d digest.Digest, r io.Reader) io.Reader {
					b, _ := io.ReadAll(r)
					return bytes.NewReader(c.alter(d, l, b))
				}
			}
			_, err := s.tryPull(t.Context(), reg, "r.test/x", "", nil)
			if c.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) || !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("got %v, want %q", err, c.err)
			}
			s.wantFiles(t, 0, 0)
		})
	}
	for name, raw := range map[string][]byte{"garbage": []byte(strings.Repeat("garbage ", 10000)), "truncated": layer[:5000], "torn gzip": packed[:len(packed)/2]} {
		t.Run(name, func(t *testing.T) {
			s, reg := newStore(t), newRegistry()
			reg.customImage(t, "r.test/x:latest", digest.FromBytes(layer), raw)
			if _, err := s.tryPull(t.Context(), reg, "r.test/x", "", nil); err == nil || !strings.Contains(err.Error(), "failed to register layer") {
				t.Error(err)
			}
			s.wantFiles(t, 0, 0)
		})
	}
}

func onlyLayer(f func([]byte) []byte) func(d digest.Digest, l ocispec.Descriptor, b []byte) []byte {
	return func(d digest.Digest, l ocispec.Descriptor, b []byte) []byte {
		if d == l.Digest {
			return f(b)
		}
		return b
	}
}

func TestHostileIndexes(t *testing.T) {
	index := func(reg *memRegistry, children ...ocispec.Descriptor) ocispec.Descriptor {
		return reg.putJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children})
	}
	for name, c := range map[string]struct {
		root func(reg *memRegistry) ocispec.Descriptor
		err  string
	}{
		"deep": {func(reg *memRegistry) ocispec.Descriptor {
			d := reg.addImage(t, "", nil, threeLayers(t)...).manifest
			for range 5 {
				d = index(reg, d)
			}
			return d
		}, "nested too deep"},
		"wide": {func(reg *memRegistry) ocispec.Descriptor {
			var all []ocispec.Descriptor
			for i := range 40 {
				all = append(all, index(reg, ocispec.Descriptor{Digest: digest.FromString(fmt.Sprint(i)), Platform: &ocispec.Platform{OS: "plan9", Architecture: "mips"}}))
			}
			return index(reg, all...)
		}, "nested too deep, or there are too many"},
		"twice": {func(reg *memRegistry) ocispec.Descriptor {
			d := index(reg)
			return index(reg, d, d)
		}, "contains itself"},
		"large": {func(reg *memRegistry) ocispec.Descriptor {
			d := reg.addImage(t, "", nil, threeLayers(t)...).manifest
			return index(reg, slices.Repeat([]ocispec.Descriptor{d}, maxIndexEntries+1)...)
		}, "at most 5000"},
		"huge": {func(reg *memRegistry) ocispec.Descriptor {
			return reg.put(ocispec.MediaTypeImageIndex, bytes.Repeat([]byte(" "), maxDocument+1))
		}, "that are allowed"},
		"empty": {func(reg *memRegistry) ocispec.Descriptor { return index(reg) }, "no matching manifest"},
		"both": {func(reg *memRegistry) ocispec.Descriptor {
			return reg.put(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[],"layers":[],"config":{}}`))
		}, "at the same time"},
		"schema 1": {func(reg *memRegistry) ocispec.Descriptor {
			return reg.put(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":1,"fsLayers":[]}`))
		}, "schema 1"},
		"chart": {func(reg *memRegistry) ocispec.Descriptor {
			return reg.putJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: ocispec.Descriptor{MediaType: "application/vnd.cncf.helm.config.v1+json"}, Layers: []ocispec.Descriptor{}})
		}, "no image that runs"},
		"not JSON": {func(reg *memRegistry) ocispec.Descriptor {
			return reg.put(ocispec.MediaTypeImageManifest, []byte(`{`))
		}, "invalid manifest"},
		"layers of other numbers": {func(reg *memRegistry) ocispec.Descriptor {
			img := reg.addImage(t, "", nil, threeLayers(t)...)
			var m ocispec.Manifest
			if err := json.Unmarshal(reg.blobs[img.manifest.Digest], &m); err != nil {
				t.Fatal(err)
			}
			m.Layers = m.Layers[1:]
			return reg.putJSON(t, ocispec.MediaTypeImageManifest, m)
		}, "invalid rootfs"},
		"windows": {func(reg *memRegistry) ocispec.Descriptor {
			return reg.addImage(t, "", func(c *ocispec.Image) { c.OS = "windows" }, threeLayers(t)...).manifest
		}, `operating system "windows"`},
	} {
		t.Run(name, func(t *testing.T) {
			s, reg := newStore(t), newRegistry()
			reg.tags["r.test/x:latest"] = c.root(reg).Digest
			if _, err := s.tryPull(t.Context(), reg, "r.test/x", "", nil); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
			s.wantFiles(t, 0, 0)
		})
	}
}
