package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

// maxDocument bounds manifests, indexes and configurations: what registries and
// clients allow.
const maxDocument = 8 << 20

// writeBehind is how many bytes of a blob are written before the kernel is told
// to begin storing them, so that the sync at the end finds little left to do.
const writeBehind = 8 << 20

func (s *Store) blobPath(d digest.Digest) string { return s.path("blobs", "sha256", d.Encoded()) }

// checkDigest refuses what is no digest, or not of the one kind that the store
// keeps: the encoded form becomes the name of a file.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return runner.Errorf(runner.ErrInvalid, "invalid digest %q", d)
	}
	if d.Algorithm() != digest.SHA256 {
		return runner.Errorf(runner.ErrInvalid, "digest %s: only sha256 is supported", d)
	}
	return nil
}

func (s *Store) hasBlob(d digest.Digest) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.blobs[d]
	return ok
}

// blobWriter writes a blob under a name that no one looks for.
type blobWriter struct {
	f       *os.File
	hash    hash.Hash
	size    int64
	flushed int64
}

func (s *Store) newBlob() (*blobWriter, error) {
	f, err := os.OpenFile(s.path("ingest", s.nextName()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &blobWriter{f: f, hash: sha256.New()}, nil
}

func (w *blobWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	if w.size-w.flushed >= writeBehind {
		// Only a hint: what fails here fails again in the sync.
		_ = unix.SyncFileRange(int(w.f.Fd()), w.flushed, w.size-w.flushed, unix.SYNC_FILE_RANGE_WRITE)
		w.flushed = w.size
	}
	return n, err
}

func (w *blobWriter) digest() digest.Digest { return digest.NewDigest(digest.SHA256, w.hash) }

// discard gives up a blob that was not committed.
func (w *blobWriter) discard() {
	_ = w.f.Close()
	_ = os.Remove(w.f.Name())
}

// commitBlob gives a blob its name. The blob must be pinned. syncBlobs makes it
// durable.
func (s *Store) commitBlob(w *blobWriter) error {
	defer w.discard()
	d := w.digest()
	s.blobMu.Lock()
	defer s.blobMu.Unlock()
	if err := os.Rename(w.f.Name(), s.blobPath(d)); err != nil {
		return err
	}
	s.mu.Lock()
	s.blobs[d] = blob{size: w.size, sources: s.blobs[d].sources}
	s.mu.Unlock()
	return nil
}

// syncBlobs makes the blobs of an image durable. It does that once for all of
// them, at the end: each sync on the way would hold up those who make files.
func (s *Store) syncBlobs(digests ...digest.Digest) error {
	var todo []digest.Digest
	s.mu.RLock()
	for _, d := range digests {
		if !s.blobs[d].durable {
			todo = append(todo, d)
		}
	}
	s.mu.RUnlock()
	if len(todo) == 0 {
		return nil
	}
	var g errgroup.Group
	for _, d := range todo {
		g.Go(func() error {
			f, err := os.Open(s.blobPath(d))
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Sync()
		})
	}
	if err := firstError(g.Wait(), durable.SyncDir(s.path("blobs", "sha256"))); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range todo {
		if b, ok := s.blobs[d]; ok {
			b.durable = true
			s.blobs[d] = b
		}
	}
	return nil
}

// putBlob stores a small blob unless it is there. It must be pinned.
func (s *Store) putBlob(b []byte) error {
	if s.hasBlob(digest.FromBytes(b)) {
		return nil
	}
	w, err := s.newBlob()
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		w.discard()
		return err
	}
	return s.commitBlob(w)
}

// readBlob returns a small blob whole, verified.
func (s *Store) readBlob(d digest.Digest) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	f, err := os.Open(s.blobPath(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(b) != d {
		return nil, fmt.Errorf("blob %s is damaged", d)
	}
	return b, nil
}

// Open returns a blob of an image. The caller closes it.
func (s *Store) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadSeekCloser, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	f, err := os.Open(s.blobPath(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, runner.Errorf(runner.ErrNotFound, "blob %s is not here", desc.Digest)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// document returns a manifest, an index or a configuration, from the store or
// else from a registry, verified.
func (s *Store) document(ctx context.Context, f Fetcher, ref string, desc ocispec.Descriptor) ([]byte, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	if desc.Size > maxDocument {
		return nil, runner.Errorf(runner.ErrInvalid, "%s is of %d bytes: more than the %d that are allowed", desc.Digest, desc.Size, maxDocument)
	}
	if s.hasBlob(desc.Digest) {
		if b, err := s.readBlob(desc.Digest); err == nil {
			return b, nil
		}
	}
	r, err := f.Fetch(ctx, ref, desc, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(r, maxDocument+1)); err != nil {
		return nil, err
	}
	if b.Len() > maxDocument {
		return nil, runner.Errorf(runner.ErrInvalid, "%s is of more than the %d bytes that are allowed", desc.Digest, maxDocument)
	}
	if got := digest.FromBytes(b.Bytes()); got != desc.Digest {
		return nil, runner.Errorf(runner.ErrInvalid, "what the registry sent as %s is %s", desc.Digest, got)
	}
	return b.Bytes(), nil
}

// pin keeps blobs and layers from collection until the returned function is
// called.
func (s *Store) pin(keys ...string) (unpin func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.pins[k]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, k := range keys {
			if s.pins[k]--; s.pins[k] == 0 {
				delete(s.pins, k)
			}
		}
	}
}
