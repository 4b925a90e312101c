package images

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// loadLayer brings one layer of an archive into the store, and into img.
func (s *Store) loadLayer(ctx context.Context, a *archive, img *newImage, i int, name string, made bool, watch func(m *meter, total int64, done <-chan struct{})) error {
	_, size, err := a.packing(name)
	if err != nil {
		return err
	}
	in := layerInput{
		diffID: img.config.RootFS.DiffIDs[i], pack: made, blob: ocispec.Descriptor{Size: size},
		open: func(context.Context) (io.ReadCloser, error) { return a.open(name) },
	}
	if !made {
		in.blob = img.manifest.Layers[i]
	} else if desc, unpin := s.knownBlob(in.diffID); unpin != nil {
		defer unpin()
		in.blob, in.stored, in.pack = desc, true, false
		in.open = func(ctx context.Context) (io.ReadCloser, error) { return s.Open(ctx, desc) }
	}
	var m meter
	done := make(chan struct{})
	var u *unpacked
	go func() {
		defer close(done)
		u, err = s.ingest(ctx, in, &m)
	}()
	watch(&m, size, done)
	<-done
	if err != nil {
		return err
	}
	u.owners = 1
	img.layers[i] = u
	img.manifest.Layers[i] = ocispec.Descriptor{MediaType: in.blob.MediaType, Digest: u.blob.Digest, Size: u.blob.Size, Annotations: in.blob.Annotations}
	if made && !in.stored {
		img.manifest.Layers[i].MediaType = layerType(u.packing)
	}
	return nil
}

// knownBlob returns the packed form of a layer that an image has, and pins it.
func (s *Store) knownBlob(diffID digest.Digest) (desc ocispec.Descriptor, unpin func()) {
	s.mu.RLock()
	for _, e := range s.images {
		for i, d := range e.config.RootFS.DiffIDs {
			if d != diffID || i >= len(e.manifest.Layers) {
				continue
			}
			if _, ok := s.blobs[e.manifest.Layers[i].Digest]; ok {
				desc = e.manifest.Layers[i]
			}
		}
	}
	s.mu.RUnlock()
	if desc.Digest == "" {
		return desc, nil
	}
	unpin = s.pin(desc.Digest.String())
	if !s.hasBlob(desc.Digest) { // it went in between
		unpin()
		return desc, nil
	}
	return dockerDescriptor(desc), unpin
}

// dockerDescriptor is a layer's with the media type that belongs into a manifest
// of docker's form.
func dockerDescriptor(d ocispec.Descriptor) ocispec.Descriptor {
	out := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	switch d.MediaType {
	case ocispec.MediaTypeImageLayerGzip:
		out.MediaType = dockerLayerGzip
	case ocispec.MediaTypeImageLayerZstd:
		out.MediaType = dockerLayerZstd
	case ocispec.MediaTypeImageLayer:
		out.MediaType = dockerLayer
	}
	return out
}

func layerType(p packing) string {
	if p == packedZstd {
		return dockerLayerZstd
	}
	return dockerLayerGzip
}
