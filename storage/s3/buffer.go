package s3

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/berth-registry/berth/storage"
)

const (
	chunkSize = 256 << 10
	// memoryMost is how many bytes of a part are kept in memory. A larger part is
	// kept in a file that has no name.
	memoryMost = 64 << 20
)

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// errLocal marks an error of this machine, which no server can help.
var errLocal = errors.New("a temporary file")

// buffer is the part of a stage that was not sent yet.
type buffer struct {
	dir    string // for a file; empty for the system's
	chunks []*[chunkSize]byte
	file   *os.File // or nil
	n      int64
}

// Write appends.
func (b *buffer) Write(p []byte) (int, error) {
	if b.file == nil && b.n+int64(len(p)) > memoryMost {
		if err := b.spool(); err != nil {
			return 0, local(err)
		}
	}
	if b.file != nil {
		n, err := b.file.WriteAt(p, b.n)
		b.n += int64(n)
		return n, local(err)
	}
	written := len(p)
	for len(p) > 0 {
		if b.n == int64(len(b.chunks))*chunkSize {
			b.chunks = append(b.chunks, chunks.Get().(*[chunkSize]byte))
		}
		n := copy(b.chunks[b.n/chunkSize][b.n%chunkSize:], p)
		p = p[n:]
		b.n += int64(n)
	}
	return written, nil
}

// spool moves what is in memory to a file.
func (b *buffer) spool() error {
	f, err := os.CreateTemp(b.dir, "berth-part-")
	if err != nil {
		return err
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = io.Copy(f, b.reader())
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	b.free()
	b.file = f
	return nil
}

// ReadAt implements io.ReaderAt.
func (b *buffer) ReadAt(p []byte, off int64) (int, error) {
	if b.file != nil {
		n, err := b.file.ReadAt(p[:max(0, min(int64(len(p)), b.n-off))], off)
		if err == nil && n < len(p) {
			err = io.EOF
		}
		return n, err
	}
	read := 0
	for read < len(p) && off < b.n {
		end := min(chunkSize, b.n-off/chunkSize*chunkSize)
		n := copy(p[read:], b.chunks[off/chunkSize][off%chunkSize:end])
		read += n
		off += int64(n)
	}
	if read < len(p) {
		return read, io.EOF
	}
	return read, nil
}

// reader reads all of it, as often as one seeks.
func (b *buffer) reader() *io.SectionReader { return io.NewSectionReader(b, 0, b.n) }

// truncate forgets what is behind n bytes.
func (b *buffer) truncate(n int64) { b.n = min(b.n, n) }

// reset empties it.
func (b *buffer) reset() {
	b.free()
	if b.file != nil {
		_ = b.file.Close() // what was in it is of no use any more
		b.file = nil
	}
	b.n = 0
}

func (b *buffer) free() {
	for _, c := range b.chunks {
		chunks.Put(c)
	}
	b.chunks = nil
}

// local marks an error of this machine.
func local(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errLocal, storage.Classify(err))
}
