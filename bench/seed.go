package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
)

// seeded makes a data directory of berth and lets fn fill it, without a server
// and its connections in between, and without a sync of each blob.
func seeded(ctx context.Context, data string, fn func(registry.Registry) error) error {
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	blobs, err := fs.Open(data, nil)
	if err != nil {
		return err
	}
	meta, err := bolt.Open(filepath.Join(data, "meta.db"))
	if err != nil {
		return err
	}
	local, err := registry.NewLocal(ctx, unsynced{blobs, data}, meta, registry.Options{})
	if err != nil {
		return errors.Join(err, meta.Close())
	}
	if err = local.FirstLook(ctx); err == nil { // else its server looks through all
		err = fn(local)
	}
	local.Close()
	syscall.Sync()
	return errors.Join(err, meta.Close())
}

// seedConfig is the one blob that all seeded manifests reference.
var seedConfig = []byte("{}")

// seedRepo and seedTag name what is seeded. Names of one kind are equally long,
// so that the pages that show them are.
func seedRepo(i int) string { return fmt.Sprintf("seed/%06d", i) }
func seedTag(i int) string  { return fmt.Sprintf("v%06d", i) }

// seedManifests stores in each of a number of repositories so many manifests,
// each with a tag.
func seedManifests(ctx context.Context, w registry.Writer, repos, each int) error {
	d := digest.FromBytes(seedConfig)
	if _, err := w.PushBlob(ctx, seedRepo(0), d, bytes.NewReader(seedConfig)); err != nil {
		return err
	}
	err := parallel(repos-1, func(i int) error {
		_, err := w.MountBlob(ctx, seedRepo(i+1), seedRepo(0), d)
		return err
	})
	if err != nil {
		return err
	}
	return parallel(repos*each, func(i int) error {
		_, err := w.PushManifest(ctx, seedRepo(i/each), seedManifest(i, seedTag(i%each)))
		return err
	})
}

// seedTags stores one manifest in repo and points n tags at it.
func seedTags(ctx context.Context, w registry.Writer, repo string, n int) error {
	if _, err := w.PushBlob(ctx, repo, digest.FromBytes(seedConfig), bytes.NewReader(seedConfig)); err != nil {
		return err
	}
	const batch = 1000
	for from := 0; from < n; from += batch {
		var tags []string
		for i := from; i < min(from+batch, n); i++ {
			tags = append(tags, seedTag(i))
		}
		if _, err := w.PushManifest(ctx, repo, seedManifest(0, tags...)); err != nil {
			return err
		}
	}
	return nil
}

// seedManifest returns a manifest that differs from others by i.
func seedManifest(i int, tags ...string) registry.ManifestPush {
	data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[],"annotations":{"org.berth.bench":"%d"}}`,
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, digest.FromBytes(seedConfig), len(seedConfig), i)
	return registry.ManifestPush{Data: data, MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data), Tags: tags}
}

// pushTo stores the image in a repository.
func (img image) pushTo(ctx context.Context, repo, tag string) func(registry.Registry) error {
	return func(w registry.Registry) error {
		for i, blob := range img.blobs {
			if _, err := w.PushBlob(ctx, repo, img.digests[i], bytes.NewReader(blob)); err != nil {
				return err
			}
		}
		_, err := w.PushManifest(ctx, repo, registry.ManifestPush{
			Data: img.manifest, MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(img.manifest), Tags: []string{tag},
		})
		return err
	}
}

// seeders is how many goroutines fill a registry: many, as they share commits.
const seeders = 512

// parallel calls fn with 0 to n-1 from several goroutines and returns the first
// error, after which it starts no more.
func parallel(n int, fn func(int) error) error {
	next, quit := make(chan int), make(chan struct{})
	var failed error
	var once sync.Once
	var done sync.WaitGroup
	for range min(seeders, n) {
		done.Go(func() {
			for i := range next {
				if err := fn(i); err != nil {
					once.Do(func() { failed = err; close(quit) })
					return
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-quit:
			break feed
		}
	}
	close(next)
	done.Wait()
	return failed
}
