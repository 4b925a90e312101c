package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// mirrorImage is an image in the upstream.
type mirrorImage struct {
	repo  string
	blobs []mirrorBlob
	size  int64 // bytes of all blobs
}

type mirrorBlob struct {
	d    digest.Digest
	size int64
}

// pushMirrored pushes an image of a size.
func pushMirrored(ctx context.Context, r registry.Registry, repo string, size int64) (mirrorImage, error) {
	var img image
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i := range mirrorLayers {
		manifest.Layers = append(manifest.Layers, img.add(ocispec.MediaTypeImageLayerGzip, random(size/mirrorLayers, uint64(i+1))))
	}
	manifest.Config = img.add(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	pushed := mirrorImage{repo: repo}
	for i, blob := range img.blobs {
		pushed.blobs = append(pushed.blobs, mirrorBlob{img.digests[i], int64(len(blob))})
		pushed.size += int64(len(blob))
	}
	var err error
	if img.manifest, err = json.Marshal(manifest); err != nil {
		return pushed, err
	}
	return pushed, img.pushTo(ctx, repo, mirrorTag)(r)
}

// pull has clients pull the image at once, each by several connections.
func (m *mirrorImage) pull(ctx context.Context, addr, prefix string, clients int) (time.Duration, error) {
	repo := prefix + m.repo
	next := make([]atomic.Int64, clients)
	manifests := make([]chan struct{}, clients)
	for i := range manifests {
		manifests[i] = make(chan struct{})
	}
	return together(ctx, addr, clients*mirrorAtOnce, func(i int, c *conn) error {
		client := i / mirrorAtOnce
		if i%mirrorAtOnce == 0 { // it resolves the tag for the others
			_, err := c.do(http.StatusOK, request(http.MethodGet, addr, "/v2/"+repo+"/manifests/"+mirrorTag, "Accept: "+ocispec.MediaTypeImageManifest))
			close(manifests[client])
			if err != nil {
				return err
			}
		}
		<-manifests[client]
		for n := next[client].Add(1) - 1; n < int64(len(m.blobs)); n = next[client].Add(1) - 1 {
			blob := m.blobs[n]
			a, err := c.do(http.StatusOK, request(http.MethodGet, addr, "/v2/"+repo+"/blobs/"+string(blob.d)))
			if err == nil && a.length != blob.size {
				err = fmt.Errorf("%d bytes, want %d", a.length, blob.size)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
