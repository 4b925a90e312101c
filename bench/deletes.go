package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// deletesPerRepo is how many images a repository has of which all are deleted:
// docker-registry looks through all tags of a repository for each.
const deletesPerRepo = 100

// deletes measures how many images a second several clients delete, from the first
// request until the last byte is gone: by 'berth gc' beside the server, and by
// docker-registry's garbage-collect, for which its server must stop. Both have the
// same images and nothing else. Beside it the time without the requests.
func deletes(ctx context.Context, b *bench) ([]*figure, error) {
	name := fmt.Sprintf("%s images, 4 blobs and a manifest each", thousands(b.deletes))
	all := &figure{Name: name + ", until the bytes are gone", Unit: "images/s"}
	collections := &figure{Name: name + ", the collection alone", Unit: "images/s"}
	for run := range b.runs {
		progress("  %s, run %d of %d:", all.Name, run+1, b.runs)
		images, err := b.newImages(b.deletes)
		if err != nil {
			return nil, err
		}
		for _, s := range []struct {
			name string
			run  func(context.Context, []image) (deletion, error)
		}{{nameBerth, b.deleteBerth}, {nameDockerRegistry, b.deleteDocker}} {
			d, err := s.run(ctx, images)
			if err := errors.Join(err, ctx.Err()); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			n := float64(len(images))
			progress(" %s %s", s.name, format(n/(d.requests+d.collection).Seconds()))
			all.add(s.name, n/(d.requests+d.collection).Seconds())
			collections.add(s.name, n/d.collection.Seconds())
		}
		progress(" %s\n", all.Unit)
	}
	all.ratio(nameBerth, nameDockerRegistry, atLeast(20))
	collections.ratio(nameBerth, nameDockerRegistry, bound{})
	return []*figure{all, collections}, nil
}

// deletion is what it took to delete images.
type deletion struct{ requests, collection time.Duration }

func (b *bench) newImages(n int) ([]image, error) {
	b.serial++
	src := source(b.serial, 0)
	images := make([]image, n)
	for i := range images {
		var err error
		if images[i], err = newImage(src); err != nil {
			return nil, err
		}
	}
	return images, nil
}

func deleteRepo(i int) string { return seedRepo(i / deletesPerRepo) }

// deleteBerth stores images in a new berth and deletes them.
func (b *bench) deleteBerth(ctx context.Context, images []image) (d deletion, err error) {
	s, _, err := b.newBerth(nameBerth)
	if err != nil {
		return d, err
	}
	err = seeded(ctx, s.data(), func(r registry.Registry) error {
		return parallel(len(images), func(i int) error {
			return images[i].pushTo(ctx, deleteRepo(i), seedTag(i))(r)
		})
	})
	if err != nil {
		return d, err
	}
	if s, err = b.startBerth(ctx, nameBerth); err != nil {
		return d, err
	}
	syscall.Sync()
	if d.requests, err = b.deleteAll(ctx, s, images); err != nil {
		return d, err
	}
	d.collection, err = b.collectAll(ctx, s, len(images)*(imageLayers+2))
	return d, errors.Join(err, b.stop(s, syscall.SIGTERM), os.RemoveAll(s.dir))
}

// deleteDocker does the same with docker-registry.
func (b *bench) deleteDocker(ctx context.Context, images []image) (d deletion, err error) {
	dir := filepath.Join(b.dir, nameDockerRegistry)
	for i, img := range images {
		if err := img.storeDocker(filepath.Join(dir, "data"), deleteRepo(i), seedTag(i)); err != nil {
			return d, err
		}
	}
	s, err := b.startDockerRegistry(ctx)
	if err != nil {
		return d, err
	}
	syscall.Sync()
	if d.requests, err = b.deleteAll(ctx, s, images); err != nil {
		return d, err
	}
	if err := b.stop(s, syscall.SIGTERM); err != nil {
		return d, err
	}
	cmd := exec.CommandContext(ctx, nameDockerRegistry, "garbage-collect", filepath.Join(dir, "config.yml"))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	d.collection = time.Since(began)
	if err != nil {
		return d, fmt.Errorf("garbage-collect: %w: %s", err, out[max(0, len(out)-2000):])
	}
	return d, errors.Join(noBytes(dir), os.RemoveAll(dir))
}

// deleteAll deletes images by their digests.
func (b *bench) deleteAll(ctx context.Context, s *server, images []image) (time.Duration, error) {
	return together(ctx, s.addr, b.small, func(client int, c *conn) error {
		for i := client; i < len(images); i += b.small {
			path := fmt.Sprintf("/v2/%s/manifests/%s", deleteRepo(i), digest.FromBytes(images[i].manifest))
			if _, err := c.do(http.StatusAccepted, request(http.MethodDelete, s.addr, path)); err != nil {
				return err
			}
		}
		return nil
	})
}

// storeDocker writes an image to where docker-registry would have it.
func (img image) storeDocker(data, repo, tag string) error {
	root := filepath.Join(data, "docker", "registry", "v2")
	of := filepath.Join(root, "repositories", repo)
	m := digest.FromBytes(img.manifest)
	hash := func(d digest.Digest) string { return filepath.Join(string(d.Algorithm()), d.Encoded()) }
	link := func(d digest.Digest, dir ...string) error {
		return writeNew(filepath.Join(of, filepath.Join(dir...), "link"), []byte(d))
	}
	blob := func(d digest.Digest, b []byte) error {
		return writeNew(filepath.Join(root, "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded(), "data"), b)
	}
	err := errors.Join(
		blob(m, img.manifest),
		link(m, "_manifests", "revisions", hash(m)),
		link(m, "_manifests", "tags", tag, "current"),
		link(m, "_manifests", "tags", tag, "index", hash(m)))
	for i, d := range img.digests {
		err = errors.Join(err, blob(d, img.blobs[i]), link(d, "_layers", hash(d)))
	}
	return err
}

// writeNew writes a file in a directory that may have to be made.
func writeNew(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// noBytes fails if docker-registry has left any blob.
func noBytes(dir string) error {
	return filepath.WalkDir(filepath.Join(dir, "data", "docker", "registry", "v2", "blobs"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			err = fmt.Errorf("%s is left", path)
		}
		return err
	})
}
