package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// contents is containerd's local content store with writers that wait for no
// disk: its own sync each blob twice while nobody else may write metadata.
type contents struct {
	content.Store
	root string

	mu      sync.Mutex
	ingests map[string]*ingest
}

// ingest is a blob on its way, with what it needs to be taken up again.
type ingest struct {
	file   *os.File
	hash   hash.Hash
	status content.Status
	open   bool
}

func openContents(root string) (*contents, error) {
	store, err := contentlocal.NewStore(root)
	if err != nil {
		return nil, err
	}
	c := &contents{Store: store, root: root, ingests: map[string]*ingest{}}
	for _, dir := range []string{c.path("ingest"), c.path("blobs", "sha256")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return c, clearDir(c.path("ingest")) // of blobs that another process began
}

func (c *contents) path(elem ...string) string {
	return filepath.Join(append([]string{c.root}, elem...)...)
}

// Writer implements content.Ingester. It fails with errdefs.ErrUnavailable while
// another writes the same.
func (c *contents) Writer(_ context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Ref == "" {
		return nil, fmt.Errorf("ref must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if d := o.Desc.Digest; d != "" {
		if _, err := os.Stat(c.path("blobs", d.Algorithm().String(), d.Encoded())); err == nil {
			return nil, fmt.Errorf("content %v: %w", d, errdefs.ErrAlreadyExists)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.ingests[o.Ref]
	if in != nil && in.open {
		return nil, fmt.Errorf("ref %s is being written: %w", o.Ref, errdefs.ErrUnavailable)
	}
	if in == nil {
		f, err := os.CreateTemp(c.path("ingest"), "")
		if err != nil {
			return nil, err
		}
		now := time.Now()
		in = &ingest{file: f, hash: sha256.New(), status: content.Status{Ref: o.Ref, StartedAt: now, UpdatedAt: now}}
		c.ingests[o.Ref] = in
	}
	if o.Desc.Size > 0 {
		in.status.Total = o.Desc.Size
	}
	in.open, in.status.Expected = true, o.Desc.Digest
	return &contentWriter{c: c, in: in}, nil
}

// Status implements content.IngestManager.
func (c *contents) Status(_ context.Context, ref string) (content.Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.ingests[ref]
	if in == nil {
		return content.Status{}, fmt.Errorf("ref %s: %w", ref, errdefs.ErrNotFound)
	}
	return in.status, nil
}

// ListStatuses implements content.IngestManager. Filters are for callers with
// another store.
func (c *contents) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []content.Status
	for _, in := range c.ingests {
		list = append(list, in.status)
	}
	return list, nil
}

// Abort implements content.IngestManager.
func (c *contents) Abort(_ context.Context, ref string) error {
	c.mu.Lock()
	in := c.ingests[ref]
	delete(c.ingests, ref)
	c.mu.Unlock()
	if in == nil {
		return fmt.Errorf("ref %s: %w", ref, errdefs.ErrNotFound)
	}
	return errors.Join(in.file.Close(), os.Remove(in.file.Name()))
}

// contentWriter writes a blob.
type contentWriter struct {
	c      *contents
	in     *ingest
	closed bool
}

// Write implements io.Writer.
func (w *contentWriter) Write(p []byte) (int, error) {
	if w.closed {
		return 0, fmt.Errorf("write to a closed blob: %w", errdefs.ErrFailedPrecondition)
	}
	n, err := w.in.file.Write(p)
	w.in.hash.Write(p[:n])
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.in.status.Offset += int64(n)
	w.in.status.UpdatedAt = time.Now()
	return n, err
}

// Digest implements content.Writer.
func (w *contentWriter) Digest() digest.Digest { return digest.NewDigest(digest.SHA256, w.in.hash) }

// Status implements content.Writer.
func (w *contentWriter) Status() (content.Status, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	return w.in.status, nil
}

// Truncate implements content.Writer.
func (w *contentWriter) Truncate(size int64) error {
	if size != 0 {
		return fmt.Errorf("truncate to %d bytes: %w", size, errdefs.ErrNotImplemented)
	}
	if _, err := w.in.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.in.hash.Reset()
	w.c.mu.Lock()
	w.in.status.Offset = 0
	w.c.mu.Unlock()
	return w.in.file.Truncate(0)
}

// Close implements content.Writer: another may take up what there is.
func (w *contentWriter) Close() error {
	if !w.closed {
		w.closed = true
		w.c.mu.Lock()
		w.in.open = false
		w.c.mu.Unlock()
	}
	return nil
}

// Commit implements content.Writer.
func (w *contentWriter) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	if w.closed {
		return fmt.Errorf("commit of a closed blob: %w", errdefs.ErrFailedPrecondition)
	}
	defer w.Close()
	if n := w.in.status.Offset; size > 0 && size != n {
		return fmt.Errorf("unexpected commit size %d, expected %d: %w", n, size, errdefs.ErrFailedPrecondition)
	}
	got := w.Digest()
	if expected != "" && expected != got {
		return fmt.Errorf("unexpected commit digest %s, expected %s: %w", got, expected, errdefs.ErrFailedPrecondition)
	}
	w.c.mu.Lock()
	delete(w.c.ingests, w.in.status.Ref)
	w.c.mu.Unlock()
	name := w.in.file.Name()
	err := errors.Join(w.in.file.Chmod(0o400), w.in.file.Close())
	if err == nil {
		// Another name instead of a new one: what is there stays.
		err = os.Link(name, w.c.path("blobs", "sha256", got.Encoded()))
	}
	err = errors.Join(err, os.Remove(name))
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("content %v: %w", got, errdefs.ErrAlreadyExists)
	}
	return err
}
