package logs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// packTemp is where a file is compressed to, until it is whole.
const packTemp = "pack.tmp"

// pack compresses the files of a log that are not written to any more, and that
// are sent if they are to be. Others may trim the log meanwhile, and a monitor
// write; only one may pack.
func pack(ctx context.Context, dir string, o Options) error {
	s, err := scan(dir)
	if err != nil {
		return ignoreNotExist(err)
	}
	sent := int64(maxOffset)
	if o.Remote != nil {
		sent = loadPosition(dir).Number
	}
	for _, f := range s.numbered {
		if f.packed || f.number >= sent || f.size() == 0 || s.isCurrent(f.info) || s.next != nil && os.SameFile(s.next.info, f.info) {
			continue
		}
		if err := packFile(ctx, s, f); err != nil {
			return errors.Join(ignoreNotExist(err), remove(s.path(packTemp)))
		}
	}
	return nil
}

// packFile compresses one file. When it has its new name, it takes the place of
// the old one.
func packFile(ctx context.Context, s *files, f file) error {
	in, err := os.Open(s.path(f.name))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(s.path(packTemp), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	length, err := io.Copy(z, &interruptible{ctx, in})
	if err := errors.Join(err, z.Close(), out.Close()); err != nil {
		return err
	}
	packed := s.path(packedName(f.number, f.skip, length))
	if err := os.Rename(s.path(packTemp), packed); err != nil {
		return err
	}
	if _, err := os.Lstat(s.path(f.name)); errors.Is(err, fs.ErrNotExist) {
		return remove(packed) // it was trimmed
	}
	return remove(s.path(f.name))
}

// interruptible reads until its context ends.
type interruptible struct {
	ctx context.Context //nolint:containedctx // a reader takes none
	r   io.Reader
}

// Read implements io.Reader.
func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// unpack returns what is in a compressed file as a file without a name, beside it,
// and its length. Of a damaged one it returns what can be read.
func unpack(packed *os.File) (*os.File, int64, error) {
	dir := filepath.Dir(packed.Name())
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		if f, err = os.CreateTemp(dir, "unpack-*"); err != nil {
			return nil, 0, err
		}
		if err := os.Remove(f.Name()); err != nil {
			f.Close()
			return nil, 0, err
		}
	}
	z, err := gzip.NewReader(packed)
	if err != nil {
		return f, 0, nil //nolint:nilerr // as said
	}
	length, err := f.ReadFrom(z)
	if _, failed := errors.AsType[*fs.PathError](err); failed { // of the disk
		f.Close()
		return nil, 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, length, nil
}
