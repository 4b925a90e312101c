package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// contents is a Source of bytes in memory.
type contents struct {
	mu    sync.Mutex
	bytes map[digest.Digest][]byte
}

func (c *contents) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadSeekCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, ok := c.bytes[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("there is no content %s", desc.Digest)
	}
	return closing{bytes.NewReader(data)}, nil
}

type closing struct{ io.ReadSeeker }

func (closing) Close() error { return nil }

func (c *contents) add(mediaType string, data []byte) ocispec.Descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := digest.FromBytes(data)
	if c.bytes == nil {
		c.bytes = map[digest.Digest][]byte{}
	}
	c.bytes[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func noise(n int) []byte {
	var seed [32]byte
	for i := range 4 {
		copy(seed[8*i:], fmt.Sprintf("%08x", rand.Uint32()))
	}
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

// image makes an image of layers of the given sizes.
func (c *contents) image(t *testing.T, sizes ...int) PushContent {
	t.Helper()
	p := PushContent{DiffIDs: map[digest.Digest]digest.Digest{}}
	config := c.add(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","created_by":"%x"}`, noise(8)))
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config}
	for _, n := range sizes {
		layer := c.add(ocispec.MediaTypeImageLayer, noise(n))
		m.Layers = append(m.Layers, layer)
		p.DiffIDs[layer.Digest] = digest.FromString("diff " + layer.Digest.String())
	}
	p.Blobs = append([]ocispec.Descriptor{config}, m.Layers...)
	p.Manifest = c.add(m.MediaType, must[[]byte](t)(json.Marshal(m)))
	return p
}

// index makes an index of images.
func (c *contents) index(t *testing.T, children ...PushContent) PushContent {
	t.Helper()
	m := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i, child := range children {
		desc := child.Manifest
		desc.Platform = &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]}
		m.Manifests = append(m.Manifests, desc)
	}
	return PushContent{Manifest: c.add(m.MediaType, must[[]byte](t)(json.Marshal(m))), Children: children}
}

// messages is what a push says.
type messages struct{ all []jsonstream.Message }

func (m *messages) progress() runner.Progress {
	return func(msg jsonstream.Message) { m.all = append(m.all, msg) } // the race detector sees if two come at once
}

// statuses are those of an object, without repetitions.
func (m *messages) statuses(id string) []string {
	var all []string
	for _, msg := range m.all {
		if msg.ID == id && msg.Status != "" {
			all = append(all, msg.Status)
		}
	}
	return slices.Compact(all)
}

func (m *messages) text() string {
	var b strings.Builder
	for _, msg := range m.all {
		fmt.Fprintf(&b, "%s: %s\n", msg.ID, msg.Status)
	}
	return b.String()
}

func named(t *testing.T, name string) reference.Named {
	t.Helper()
	return must[reference.Named](t)(reference.ParseNormalizedNamed(name))
}

func client(t *testing.T, o Options) *Client {
	t.Helper()
	if o.CertsDir == "" {
		o.CertsDir = t.TempDir()
	}
	return must[*Client](t)(New(o))
}

func (c *contents) check(t *testing.T, r *Repo, descs ...ocispec.Descriptor) {
	t.Helper()
	for _, desc := range descs {
		for _, off := range []int64{0, desc.Size / 3, desc.Size} {
			body, err := r.Fetch(t.Context(), "", desc, off)
			if err != nil {
				t.Fatalf("%s from %d: %v", desc.MediaType, off, err)
			}
			data, err := io.ReadAll(body)
			body.Close()
			if err != nil || !bytes.Equal(data, c.bytes[desc.Digest][off:]) {
				t.Errorf("%s from %d of %d: got %d bytes, %v", desc.MediaType, off, desc.Size, len(data), err)
			}
		}
	}
}

func user(password string) *registry.AuthConfig {
	return &registry.AuthConfig{Username: "user", Password: password}
}
