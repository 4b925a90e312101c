package images

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// pack compresses the layers of an image that are not, before they go to a
// registry: who builds images pushes few of them. The image stays what it is, but
// for its manifest.
func (s *Store) pack(ctx context.Context, id string) (err error) {
	if !s.plain(id) {
		return nil
	}
	s.packMu.Lock() // who pushes the same meanwhile finds it done
	defer s.packMu.Unlock()
	s.mu.RLock()
	e := s.images[id]
	s.mu.RUnlock()
	if !e.visible() || !s.plain(id) {
		return nil
	}
	img := &newImage{manifest: e.manifest, config: e.config}
	if img.configRaw, err = s.readBlob(digest.Digest(id)); err != nil {
		return err
	}
	unpin := sync.OnceFunc(s.pin(img.pins()...))
	defer func() { s.conclude(unpin, err) }()
	img.manifest.Layers = slices.Clone(e.manifest.Layers)
	unpins := make([]func(), len(e.manifest.Layers))
	defer func() {
		for _, unpin := range unpins {
			if unpin != nil {
				unpin()
			}
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, desc := range e.manifest.Layers {
		if !isPlain(desc) {
			continue
		}
		g.Go(func() (err error) {
			img.manifest.Layers[i], unpins[i], err = s.packLayer(gctx, desc)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("compress the layers of image %s: %w", shortID(id), err)
	}
	if err := s.repack(img); err != nil {
		return err
	}
	unpin()
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	return s.collect(nil, nil) // what it had before
}

// packLayer compresses a blob, and pins what it becomes.
func (s *Store) packLayer(ctx context.Context, desc ocispec.Descriptor) (ocispec.Descriptor, func(), error) {
	if known, unpin := s.knownBlob(desc.Digest); unpin != nil { // what is not packed has one digest for both
		if !isPlain(known) {
			return known, unpin, nil
		}
		unpin()
	}
	f, err := s.Open(ctx, desc)
	if err != nil {
		return desc, nil, err
	}
	defer f.Close()
	w, err := s.newBlob()
	if err != nil {
		return desc, nil, err
	}
	defer w.discard()
	z := gzip.NewWriter(w)
	if _, err := io.CopyBuffer(z, struct{ io.Reader }{contextReader{ctx, f}}, make([]byte, copyBuffer)); err != nil {
		return desc, nil, err
	}
	if err := z.Close(); err != nil {
		return desc, nil, err
	}
	packed := ocispec.Descriptor{MediaType: dockerLayerGzip, Digest: w.digest(), Size: w.size}
	unpin := s.pin(packed.Digest.String())
	if err := s.commitBlob(w); err != nil {
		unpin()
		return desc, nil, err
	}
	return packed, unpin, nil
}

// repack gives an image of the store the manifest that was made for it.
func (s *Store) repack(img *newImage) error {
	if err := img.makeManifest(); err != nil {
		return err
	}
	defer s.pin(img.pins()...)()
	if err := firstError(s.putBlob(img.manifestRaw), s.syncBlobs(img.blobs()...)); err != nil {
		return err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.mu.RLock()
	old := s.images[img.id()]
	s.mu.RUnlock()
	if !old.visible() {
		return noSuchImage(img.id())
	}
	e := *old
	e.manifest, e.rec.Manifest = img.manifest, img.desc
	return s.write(change{images: map[string]*entry{e.id: &e}})
}

func isPlain(d ocispec.Descriptor) bool {
	return d.MediaType == dockerLayer || d.MediaType == ocispec.MediaTypeImageLayer
}

// plain says whether an image has layers that are not compressed.
func (s *Store) plain(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.images[id]
	return e != nil && slices.ContainsFunc(e.manifest.Layers, isPlain)
}
