package images

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// maxArchiveFiles bounds the files of an archive of images.
const maxArchiveFiles = 100_000

// archive is an archive of images, its files each in one of the store's, under
// names that are ours.
type archive struct {
	dir   string
	files map[string]string // name → path
	links map[string]string // name → name
}

// openArchive stores the files of an archive, compressed or not, in a new
// directory, which close removes.
func (s *Store) openArchive(ctx context.Context, r io.Reader) (_ *archive, err error) {
	a := &archive{dir: s.path("ingest", s.nextName()), files: map[string]string{}, links: map[string]string{}}
	if err := os.Mkdir(a.dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	begin := bufio.NewReaderSize(r, copyBuffer)
	magic, err := begin.Peek(magicLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	b := s.newBudget(0)
	b.max = maxArchiveFiles
	b.limits.Unpacked = s.opts.Limits.Archive
	z, err := newUnpacker(ctx, packingOf(magic))
	if err != nil {
		return nil, err
	}
	fed := make(chan error, 1)
	go func() {
		defer z.in.Close()
		_, err := io.CopyBuffer(struct{ io.Writer }{z.in}, &countingReader{contextReader{ctx, begin}, b}, make([]byte, copyBuffer))
		fed <- err
	}()
	plain := &budgetReader{z.out, b}
	rerr := a.read(ctx, tar.NewReader(bufio.NewReaderSize(plain, copyBuffer)), b)
	if rerr == nil {
		_, rerr = io.Copy(io.Discard, plain) // the client sends to its end
	}
	zerr := z.close()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(rerr, errBudget):
		return nil, rerr
	case zerr != nil:
		return nil, runner.Errorf(runner.ErrInvalid, "the archive cannot be decompressed: %w", zerr)
	case rerr != nil:
		select {
		case ferr := <-fed:
			if ferr != nil && !errors.Is(ferr, io.ErrClosedPipe) && !errors.Is(ferr, os.ErrClosed) {
				return nil, ferr
			}
		default:
		}
		return nil, runner.Errorf(runner.ErrInvalid, "invalid archive of images: %w", rerr)
	}
	return a, nil
}

// countingReader counts the packed bytes of a budget.
type countingReader struct {
	r io.Reader
	b *budget
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.b.packed.Add(int64(n))
	return n, err
}

// budgetReader counts the unpacked ones.
type budgetReader struct {
	r io.Reader
	b *budget
}

func (r *budgetReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if berr := r.b.read(int64(n)); berr != nil {
		return 0, berr
	}
	return n, err
}

// read stores the archive's files.
func (a *archive) read(ctx context.Context, tr *tar.Reader, b *budget) error {
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := firstError(ctx.Err(), b.entry()); err != nil {
			return err
		}
		name, err := cleanName(hdr.Name)
		if err != nil {
			return fmt.Errorf("entry %q: %w", shorten(hdr.Name), err)
		}
		switch hdr.Typeflag {
		case tar.TypeReg:
			err = a.store(name, tr, b)
		case tar.TypeSymlink: // docker's of old: a layer that is there twice
			a.links[name] = path.Join(path.Dir(name), hdr.Linkname) //nolint:gosec // a name among those of the archive, never a path
		case tar.TypeLink:
			a.links[name] = path.Clean(hdr.Linkname)
		}
		if err != nil {
			return err
		}
	}
}

func (a *archive) store(name string, r io.Reader, b *budget) error {
	p := filepath.Join(a.dir, strconv.Itoa(len(a.files)))
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, copyBuffer)
	for {
		n, err := r.Read(buf)
		if berr := b.file(int64(n)); berr != nil {
			return berr
		}
		if _, werr := f.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			if old, ok := a.files[name]; ok {
				_ = os.Remove(old)
			}
			a.files[name] = p
			return f.Close()
		}
		if err != nil {
			return err
		}
	}
}

func (a *archive) close() { _ = os.RemoveAll(a.dir) }

func (a *archive) has(name string) bool {
	_, err := a.find(name)
	return err == nil
}

// find returns the path of a file of the archive.
func (a *archive) find(name string) (string, error) {
	clean, err := cleanName(name)
	if err != nil {
		return "", fmt.Errorf("file %q of the archive: %w", shorten(name), err)
	}
	for range 10 {
		if p, ok := a.files[clean]; ok {
			return p, nil
		}
		next, ok := a.links[clean]
		if !ok {
			break
		}
		clean = next
	}
	return "", runner.Errorf(runner.ErrInvalid, "invalid archive of images: it has no file %q", shorten(name))
}

// open opens a file of the archive.
func (a *archive) open(name string) (*os.File, error) {
	p, err := a.find(name)
	if err != nil {
		return nil, err
	}
	return os.Open(p)
}

// document returns a small file of the archive.
func (a *archive) document(name string) ([]byte, error) {
	f, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = runner.Errorf(runner.ErrInvalid, "invalid archive of images: %q is of more than %d bytes", shorten(name), maxDocument)
	}
	return b, err
}

func (a *archive) json(name string, v any) error {
	b, err := a.document(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return runner.Errorf(runner.ErrInvalid, "invalid archive of images: %s: %w", name, err)
	}
	return nil
}

// Resolve is not asked of an archive.
func (a *archive) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, runner.Errorf(runner.ErrNotFound, "an archive has no names")
}

// Fetch makes an OCI layout a Fetcher.
func (a *archive) Fetch(_ context.Context, _ string, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	f, err := a.open(blobName(desc.Digest))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// packing is how a file of the archive is compressed.
func (a *archive) packing(name string) (packing, int64, error) {
	f, err := a.open(name)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	magic := make([]byte, magicLen)
	n, err := io.ReadFull(f, magic)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	return packingOf(magic[:n]), info.Size(), nil
}

// layerNames are the files of a manifest's layers in an OCI layout.
func layerNames(layers []ocispec.Descriptor) []string {
	names := make([]string, len(layers))
	for i, l := range layers {
		names[i] = blobName(l.Digest)
	}
	return names
}
