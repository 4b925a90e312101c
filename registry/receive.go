package registry

import (
	"errors"
	"hash"
	"io"
	"sync"
)

const (
	// bufferSize is how much of a blob is in memory at a time. Fewer, larger writes
	// cost the file system less.
	bufferSize = 512 << 10
	// firstSize is how much of a blob is read before that buffer is taken: a small
	// blob, or a client that sends next to nothing, does without it.
	firstSize = 16 << 10
)

var (
	buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	firsts  = sync.Pool{New: func() any { return new([firstSize]byte) }}
)

// readError is a failure of the reader that a client's bytes come from, as
// opposed to one of the store.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// receive writes r to w and to h until r ends, and returns how many bytes it
// wrote. A failure of r is a readError, and what came before it was written and
// hashed.
func receive(w io.Writer, h hash.Hash, r io.Reader) (int64, error) {
	first := firsts.Get().(*[firstSize]byte)
	total, ended, err := receiveBuffer(w, h, r, first[:])
	firsts.Put(first)
	if ended {
		return total, err
	}
	// Hashing in a goroutine of its own, beside reading and writing, was not
	// faster: where a blob comes in fast, the processors have enough to do.
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for !ended {
		var n int64
		n, ended, err = receiveBuffer(w, h, r, buffer[:])
		total += n
	}
	return total, err
}

// receiveBuffer does it for one buffer, and says whether that was the last.
func receiveBuffer(w io.Writer, h hash.Hash, r io.Reader, buffer []byte) (total int64, ended bool, err error) {
	n, rerr := 0, error(nil)
	for n < len(buffer) && rerr == nil {
		var m int
		m, rerr = r.Read(buffer[n:])
		_, _ = h.Write(buffer[n : n+m]) // at once, while it is in the processor's cache; a hash never fails
		n += m
	}
	written, werr := w.Write(buffer[:n])
	return int64(written), rerr != nil || werr != nil, outcome(werr, rerr)
}

// outcome is the error of a write, or of the read before it.
func outcome(werr, rerr error) error {
	switch {
	case werr != nil:
		return werr
	case rerr == nil, errors.Is(rerr, io.EOF):
		return nil
	case errors.Is(rerr, ErrTooLarge):
		return rerr
	default:
		return readError{rerr}
	}
}

// Lengther is a reader that may know how many bytes it has; -1 if it does not.
type Lengther interface{ Length() int64 }

// limit returns r as it may be appended to held bytes of a blob: it fails with
// ErrTooLarge, at once if r says how long it is.
func (l *Local) limit(r io.Reader, held int64) (io.Reader, error) {
	most := l.limits.Load().Blob
	if most == 0 {
		return r, nil
	}
	b := &bounded{r: r, left: most - held, err: ErrTooLarge.With("blob is larger than the %d bytes that this registry takes", most)}
	known, ok := r.(Lengther)
	if b.left < 0 || ok && known.Length() > b.left { // of a session, the limit may be newer
		return nil, b.err
	}
	return b, nil
}

// bounded reads r, and fails with err if there is more of it than left.
type bounded struct {
	r    io.Reader
	left int64
	err  error
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return max(0, n-1), b.err
	}
	return n, err
}
