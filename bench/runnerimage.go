package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// images is a berth with the images of the works.
type images struct {
	*server

	layers []digest.Digest // of the great image
	packed int64           // their size
}

// The repositories of images.
const (
	repoSmall = "busybox"
	repoTools = "tools"
	repoGreat = "great"
)

// small is the name of an image of busybox alone.
func (r *images) small() string { return r.addr + "/" + repoSmall + ":latest" }

// smallImage is the name of the image that engines have when they start.
func (b *bench) smallImage() string { return b.images.small() }

// tools is the name of an image without a file, for programs of the host.
func (r *images) tools() string { return r.addr + "/" + repoTools + ":latest" }

// great is the name of an image of b.image bytes, if there is one.
func (r *images) great() string { return r.addr + "/" + repoGreat + ":latest" }

// startImages starts a berth with images, further ones as more puts them there,
// and lets podman know that it has no TLS.
func (b *bench) startImages(ctx context.Context, more ...func(context.Context, *images, registry.Writer) error) (*images, error) {
	s, args, err := b.newBerth("images")
	if err != nil {
		return nil, err
	}
	r := &images{server: s}
	if err := seeded(ctx, s.data(), func(w registry.Registry) error {
		busybox, err1 := busyboxLayer()
		tools, err2 := toolsLayer()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		for repo, l := range map[string]layer{repoSmall: busybox, repoTools: tools} {
			if err := pushLayers(ctx, w, repo, []layer{l}); err != nil {
				return err
			}
		}
		for _, put := range more {
			if err := put(ctx, r, w); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	conf := filepath.Join(runDir, "registries.conf")
	text := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", s.addr)
	if err := errors.Join(os.MkdirAll(runDir, 0o755), os.WriteFile(conf, []byte(text), 0o644), os.Setenv("CONTAINERS_REGISTRIES_CONF", conf)); err != nil {
		return nil, err
	}
	b.images = r
	_, err = b.start(ctx, s, "/readyz", b.binary, args...)
	return r, err
}

// layer is a packed layer of an image.
type layer struct {
	packed []byte
	plain  digest.Digest // of the archive
}

// pack returns the layer that fill writes.
func pack(fill func(*tar.Writer) error) (layer, error) {
	var packed bytes.Buffer
	plain := digest.Canonical.Digester()
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(io.MultiWriter(z, plain.Hash()))
	err := errors.Join(fill(w), w.Close(), z.Close())
	return layer{packed.Bytes(), plain.Digest()}, err
}

// pushLayers pushes an image and tags it as latest.
func pushLayers(ctx context.Context, w registry.Writer, repo string, layers []layer) error {
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ocispec.ImageConfig{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"}},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	push := func(mediaType string, b []byte) (ocispec.Descriptor, error) {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		_, err := w.PushBlob(ctx, repo, d.Digest, bytes.NewReader(b))
		return d, err
	}
	for _, l := range layers {
		d, err := push(ocispec.MediaTypeImageLayerGzip, l.packed)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.plain)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if m.Config, err = push(ocispec.MediaTypeImageConfig, text); err != nil {
		return err
	}
	if text, err = json.Marshal(m); err != nil {
		return err
	}
	_, err = w.PushManifest(ctx, repo, registry.ManifestPush{Data: text, MediaType: m.MediaType, Digest: digest.FromBytes(text), Tags: []string{"latest"}})
	return err
}

// busyboxLayer has busybox and the commands that the works run.
func busyboxLayer() (layer, error) {
	path, _ := lookup("busybox")
	program, err := os.ReadFile(path)
	if err != nil {
		return layer{}, err
	}
	return pack(func(w *tar.Writer) error {
		err := errors.Join(putDir(w, "bin"), putDir(w, "tmp"), putFile(w, "bin/busybox", 0o755, program))
		for _, name := range []string{"sh", "sleep", "true"} {
			err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}))
		}
		return err
	})
}

// toolsLayer has nothing but the places where a container gets the host's /usr,
// so that both run the very same programs.
func toolsLayer() (layer, error) {
	return pack(func(w *tar.Writer) error {
		err := errors.Join(putDir(w, "usr"), putDir(w, "tmp"))
		for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
			err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: "usr/" + name}))
		}
		return err
	})
}

func putDir(w *tar.Writer, name string) error {
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
}

func putFile(w *tar.Writer, name string, mode int64, content []byte) error {
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	return err
}

// layerShares are the sizes of the great image's layers, in hundredths.
var layerShares = []int64{24, 8, 30, 12, 25, 1}

// putGreat puts the great image into a registry.
func (b *bench) putGreat(ctx context.Context, r *images, w registry.Writer) error {
	layers := make([]layer, len(layerShares))
	err := manyOf(len(layers), 2, func(i int) error {
		var err error
		layers[i], err = pack(func(w *tar.Writer) error { return fillFiles(w, uint64(i), b.image*layerShares[i]/100) })
		return err
	})
	if err != nil {
		return err
	}
	for _, l := range layers {
		r.layers = append(r.layers, digest.FromBytes(l.packed))
		r.packed += int64(len(l.packed))
	}
	return pushLayers(ctx, w, repoGreat, layers)
}

// fillFiles writes size bytes of files: as in images of programs most are of a
// few kilobytes, a few of megabytes, some 28 KB in the mean and 20 in a
// directory. They compress to a third. The same seed gives the same.
func fillFiles(w *tar.Writer, seed uint64, size int64) error {
	const mu, sigma, most = 8.6, 1.8, 16 * mb
	src := rand.New(rand.NewPCG(seed, 7))
	text := newWords(src)
	dir := ""
	for n := 0; size > 0; n++ {
		if n%20 == 0 {
			dir = fmt.Sprintf("usr/lib/layer%d/%d", seed, n/20)
			if err := putDir(w, dir); err != nil {
				return err
			}
		}
		length := min(int64(math.Exp(mu+sigma*src.NormFloat64())), most, size)
		if err := putFile(w, fmt.Sprintf("%s/file%d", dir, n), 0o644, text.next(int(length))); err != nil {
			return err
		}
		size -= length
	}
	return nil
}

// words makes content of words, of which some are frequent and many are rare.
type words struct {
	known [][]byte
	pick  *rand.Zipf
	buf   []byte
}

func newWords(src *rand.Rand) *words {
	const most = 1 << 13
	w := &words{pick: rand.NewZipf(src, 1.3, 5, most-1)}
	for range most {
		word := make([]byte, 5+src.IntN(16))
		for i := range word {
			word[i] = byte(src.Uint32())
		}
		w.known = append(w.known, word)
	}
	return w
}

// next returns content that is valid until it is called again.
func (w *words) next(length int) []byte {
	w.buf = slices.Grow(w.buf[:0], length+32)
	for len(w.buf) < length {
		w.buf = append(w.buf, w.known[w.pick.Uint64()]...)
	}
	return w.buf[:length]
}
