package registrytest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// writers is how many goroutines do the same at once.
const writers = 8

// together runs fn in all writers at once and reports their errors.
func (f *fixture) together(fn func(i int) error) {
	f.Helper()
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	f.ok("concurrent calls", errors.Join(errs...))
}

var concurrentTests = []test{
	{"SameBlob", func(f *fixture) {
		data := noise(300_000, 1)
		d := digest.FromBytes(data)
		f.together(func(_ int) error {
			_, err := f.PushBlob(f.Context(), repo, d, bytes.NewReader(data))
			return err
		})
		f.hasBlob(repo, d, data)
	}},
	{"SameBlobByUpload", func(f *fixture) {
		data := noise(300_000, 1)
		d := digest.FromBytes(data)
		f.together(func(_ int) error {
			id, err := f.StartUpload(f.Context(), repo, digest.SHA256)
			if err != nil {
				return err
			}
			if _, err := f.WriteUpload(f.Context(), repo, id, registry.Chunk{}, bytes.NewReader(data[:100_000])); err != nil {
				return err
			}
			_, err = f.CommitUpload(f.Context(), repo, id, registry.Chunk{}, bytes.NewReader(data[100_000:]), d)
			return err
		})
		f.hasBlob(repo, d, data)
	}},
	{"SameBlobInManyRepositories", func(f *fixture) {
		data := noise(10_000, 1)
		d := digest.FromBytes(data)
		f.together(func(i int) error {
			_, err := f.PushBlob(f.Context(), fmt.Sprintf("%s%d", repo, i), d, bytes.NewReader(data))
			return err
		})
		for i := range writers {
			f.hasBlob(fmt.Sprintf("%s%d", repo, i), d, data)
		}
	}},
	{"SameManifest", func(f *fixture) {
		m := f.image(repo, 1)
		f.together(func(i int) error { return f.tryPush(repo, m, "latest", fmt.Sprint("tag", i)) })
		f.hasManifest(repo, tagRef("latest"), m)
		f.hasManifest(repo, tagRef("tag7"), m)
		f.wantList("repositories", f.Repositories(f.Context(), ""), repo)
		f.ok("delete manifest", f.DeleteManifest(f.Context(), repo, m.desc.Digest))
		f.wantList("repositories", f.Repositories(f.Context(), ""))
	}},
	{"MovingTag", func(f *fixture) {
		images := make([]pushed, writers)
		known := map[digest.Digest]bool{}
		for i := range images {
			images[i] = f.image(repo, uint64(i))
			known[images[i].desc.Digest] = true
		}
		f.push(repo, images[0], "latest")
		f.together(func(i int) error {
			for range 10 {
				if err := f.tryPush(repo, images[i], "latest"); err != nil {
					return err
				}
				data, desc, err := f.Manifest(f.Context(), repo, tagRef("latest"))
				if err != nil {
					return err
				}
				if !known[desc.Digest] || digest.FromBytes(data) != desc.Digest {
					return fmt.Errorf("tag is %s, whose bytes are %s", desc.Digest, digest.FromBytes(data))
				}
			}
			return nil
		})
		f.wantList("tags", f.Tags(f.Context(), repo, ""), "latest")
	}},
	{"PushAndDelete", func(f *fixture) {
		m := f.image(repo, 1)
		f.together(func(_ int) error {
			for range 10 {
				if err := f.tryPush(repo, m, "latest"); err != nil {
					return err
				}
				err := f.DeleteManifest(f.Context(), repo, m.desc.Digest)
				if err != nil && !errors.Is(err, registry.ErrManifestUnknown) {
					return err
				}
			}
			return nil
		})
		f.noManifest(repo, tagRef("latest"))
		f.wantList("repositories", f.Repositories(f.Context(), ""))
		f.push(repo, m, "latest")
		f.wantList("tags", f.Tags(f.Context(), repo, ""), "latest")
	}},
	{"ReadersOfOneBlob", func(f *fixture) {
		data := noise(1<<20, 1)
		d := f.blob(repo, data).Digest
		f.together(func(_ int) error {
			r, _, err := f.Blob(f.Context(), repo, d)
			if err != nil {
				return err
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if err == nil && !bytes.Equal(got, data) {
				err = errors.New("read other bytes than were pushed")
			}
			return err
		})
	}},
}
