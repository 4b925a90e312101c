package images

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// layerInput is a layer on its way into the store.
type layerInput struct {
	// open returns the archive, compressed or not.
	open func(ctx context.Context) (io.ReadCloser, error)
	// blob and diffID are what it must be; an empty digest is unknown.
	blob   ocispec.Descriptor
	diffID digest.Digest
	// stored says that the archive is the store's own blob.
	stored bool
	// pack compresses an archive that is not, or not in a way that registries
	// know. Its blob is then unknown.
	pack bool
}

// unpacked is a layer whose blob and tree are in the store, and of no image yet.
type unpacked struct {
	dir     uint64
	diffID  digest.Digest
	blob    ocispec.Descriptor // digest and size
	packing packing            // of the blob
	tree    tree
	owners  int    // guarded by Store.mu: the last to let go removes the tree
	unpin   func() // the blob, then
}

// meter is how far a layer has come, for those who watch.
type meter struct {
	stage   atomic.Int32
	current atomic.Int64
}

const (
	stageWaiting int32 = iota
	stageDownloading
	stageVerifying
	stageDownloaded
	stageExtracting
)

func (m *meter) reach(stage int32) {
	if m != nil {
		m.stage.Store(stage)
	}
}

// ingest reads a layer once: on the way its blob is hashed and stored, and its
// archive decompressed, hashed and unpacked. What it made goes if it fails. The
// blob must be pinned.
func (s *Store) ingest(ctx context.Context, in layerInput, m *meter) (_ *unpacked, err error) {
	u := &unpacked{dir: s.number.Add(1), diffID: in.diffID}
	dir := s.layerDir(u.dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.removeTree(u.dir)
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the root of a container, in a directory that only root enters
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	src, err := in.open(ctx)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	m.reach(stageDownloading)
	begin := bufio.NewReaderSize(src, copyBuffer)
	magic, err := begin.Peek(magicLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	w, err := s.layerWriter(in, packingOf(magic), u)
	if err != nil {
		return nil, err
	}
	if w.blob != nil {
		defer w.blob.discard()
	}
	if err := s.stream(ctx, cancel, w, begin, dir, m); err != nil {
		return nil, err
	}
	return u, s.keep(w, m)
}

// layerPipe carries one layer from its source to its blob and its tree.
type layerPipe struct {
	in      layerInput
	u       *unpacked
	packing packing // of the source
	blob    *blobWriter
	gzip    *gzip.Writer // to the blob; nil if the source is the blob
	diff    hash.Hash
	budget  *budget
	got     hash.Hash // of the source, if it is the store's own
	size    int64     // of the source
}

func (s *Store) layerWriter(in layerInput, p packing, u *unpacked) (*layerPipe, error) {
	w := &layerPipe{in: in, u: u, packing: p, diff: sha256.New(), budget: s.newBudget(in.blob.Size)}
	u.packing = p
	if in.stored {
		w.got = sha256.New()
		return w, nil
	}
	err := w.budget.room()
	if err != nil {
		return nil, err
	}
	if w.blob, err = s.newBlob(); err != nil {
		return nil, err
	}
	if in.pack && p != packedGzip && p != packedZstd {
		w.gzip = gzip.NewWriter(w.blob)
		u.packing = packedGzip
	}
	return w, nil
}

// stream is the source to the decompressor in one goroutine, and from there to
// the tree in another.
func (s *Store) stream(ctx context.Context, cancel func(), w *layerPipe, src io.Reader, dir string, m *meter) error {
	// It ends when its pipes do, not by ctx: so its own error is told from ours.
	z, err := newUnpacker(context.WithoutCancel(ctx), w.packing)
	if err != nil {
		return err
	}
	fed := make(chan error, 1)
	go func() { fed <- w.feed(ctx, src, z.in, m) }()

	plain := &plainReader{r: z.out, w: w}
	t, terr := extract(ctx, dir, plain, w.budget)
	if terr == nil {
		// What follows the archive's end is part of the layer's digest.
		_, terr = io.CopyBuffer(struct{ io.Writer }{io.Discard}, plain, make([]byte, copyBuffer))
	}
	w.u.tree = t
	var broken streamError
	// An archive that cannot be read may not be what it should be: feed knows, if
	// anyone does.
	ours := terr != nil && (!errors.As(terr, &broken) || w.in.blob.Digest == "")
	if ours {
		cancel()
	}
	zerr := z.close()
	ferr := <-fed
	switch {
	case context.Cause(ctx) != nil && !ours:
		return context.Cause(ctx)
	case ours && zerr == nil:
		if errors.As(terr, &broken) {
			return runner.Errorf(runner.ErrInvalid, "failed to register layer: %w", terr)
		}
		return fmt.Errorf("failed to register layer: %w", terr)
	case ferr != nil:
		return ferr
	case zerr != nil:
		return runner.Errorf(runner.ErrInvalid, "failed to register layer: the archive cannot be decompressed: %w", zerr)
	case terr != nil:
		return runner.Errorf(runner.ErrInvalid, "failed to register layer: %w", terr)
	}
	return nil
}

// feed writes the source to the decompressor, and to the blob if it is one. It
// goes on to the end of the source though the decompressor has failed, to know
// whether the source is what it should be.
func (w *layerPipe) feed(ctx context.Context, src io.Reader, z io.WriteCloser, m *meter) error {
	defer z.Close()
	buf := make([]byte, copyBuffer)
	known := w.in.blob.Digest != ""
	for open := true; ; {
		n, err := src.Read(buf)
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		w.size += int64(n)
		if !known {
			w.budget.packed.Store(w.size)
		}
		if known && w.size > w.in.blob.Size {
			return runner.Errorf(runner.ErrInvalid, "filesystem layer verification failed for digest %s: it has more than %d bytes", w.in.blob.Digest, w.in.blob.Size)
		}
		if werr := w.store(buf[:n]); werr != nil {
			return werr
		}
		if open {
			_, werr := z.Write(buf[:n])
			open = werr == nil
		}
		if m != nil {
			m.current.Store(w.size)
		}
		if errors.Is(err, io.EOF) {
			m.reach(stageVerifying)
			return w.verify()
		}
		if err != nil {
			return err
		}
	}
}

func (w *layerPipe) store(p []byte) error {
	switch {
	case w.got != nil:
		w.got.Write(p)
	case w.gzip == nil:
		_, err := w.blob.Write(p)
		return err
	}
	return nil
}

// verify compares the source with the digest that was promised.
func (w *layerPipe) verify() error {
	want := w.in.blob
	if want.Digest == "" {
		return nil
	}
	var got digest.Digest
	switch {
	case w.got != nil:
		got = digest.NewDigest(digest.SHA256, w.got)
	case w.gzip == nil:
		got = w.blob.digest()
	default:
		return nil
	}
	if got != want.Digest {
		return runner.Errorf(runner.ErrInvalid, "filesystem layer verification failed for digest %s", want.Digest)
	}
	return nil
}

// plainReader is a layer's archive: hashed, counted, and compressed for the store
// if it is to be, as it is read.
type plainReader struct {
	r io.Reader
	w *layerPipe
}

func (p *plainReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		if berr := p.w.budget.read(int64(n)); berr != nil {
			return 0, berr
		}
		p.w.diff.Write(b[:n])
		if p.w.gzip != nil {
			if _, gerr := p.w.gzip.Write(b[:n]); gerr != nil {
				return 0, gerr
			}
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = streamError{err}
	}
	return n, err
}

// keep verifies what came out of the archive, and stores its blob.
func (s *Store) keep(w *layerPipe, m *meter) error {
	u := w.u
	got := digest.NewDigest(digest.SHA256, w.diff)
	if u.diffID != "" && got != u.diffID {
		return runner.Errorf(runner.ErrInvalid, "layers from manifest don't match image configuration: %s is %s unpacked, not %s", w.in.blob.Digest, got, u.diffID)
	}
	u.diffID, u.blob = got, w.in.blob
	m.reach(stageDownloaded)
	if w.in.stored {
		u.unpin = s.pin(u.blob.Digest.String())
		return nil
	}
	if w.gzip != nil {
		if err := w.gzip.Close(); err != nil {
			return err
		}
	}
	u.blob.Digest, u.blob.Size = w.blob.digest(), w.blob.size
	unpin := s.pin(u.blob.Digest.String())
	if err := s.commitBlob(w.blob); err != nil {
		unpin()
		return err
	}
	u.unpin = unpin
	m.reach(stageExtracting)
	return nil
}

// removeTree removes the directory of a layer that no image has.
func (s *Store) removeTree(n uint64) {
	if err := os.RemoveAll(s.layerDir(n)); err != nil {
		s.log.Warn("a layer's directory is left until the next start", "dir", s.layerDir(n), "error", err)
	}
}
