package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// random returns n bytes that do not compress. The same seed gives the same.
func random(n int64, seed uint64) []byte {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	b := make([]byte, n)
	_, _ = src.Read(b) // never fails
	return b
}

// stamp makes the bytes of b content that no registry has seen.
func stamp(b []byte, serial int) { copy(b, fmt.Sprintf("%-16d", serial)) }

// piece is the size of the writes in which a great body is sent.
const piece = 1 * mb

// pieces cuts b for writing.
func pieces(b []byte) [][]byte {
	var out [][]byte
	for len(b) > piece {
		out = append(out, b[:piece])
		b = b[piece:]
	}
	return append(out, b)
}

// image is a small image.
type image struct {
	blobs    [][]byte // layers, then the configuration
	digests  []digest.Digest
	manifest []byte
}

const (
	imageLayers = 3
	layerSize   = 8 << 10
)

// newImage makes an image of content that src, which is random, never made
// before.
func newImage(src *rand.ChaCha8) (image, error) {
	var img image
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for range imageLayers {
		layer := make([]byte, layerSize)
		_, _ = src.Read(layer) // never fails
		m.Layers = append(m.Layers, img.add(ocispec.MediaTypeImageLayerGzip, layer))
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":"%x","rootfs":{"type":"layers","diff_ids":[%q,%q,%q]}}`,
		src.Uint64(), img.digests[0], img.digests[1], img.digests[2])
	m.Config = img.add(ocispec.MediaTypeImageConfig, config)
	var err error
	img.manifest, err = json.Marshal(m)
	return img, err
}

func (img *image) add(mediaType string, b []byte) ocispec.Descriptor {
	d := digest.FromBytes(b)
	img.blobs = append(img.blobs, b)
	img.digests = append(img.digests, d)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}
