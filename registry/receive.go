package registry

import (
	"errors"
	"hash"
	"io"
	"sync"
)

const (
	// bufferSize is how much of a blob is in memory at a time, twice.
	bufferSize = 128 << 10
	// firstSize is how much of a blob is read before the buffers are taken: a
	// small blob, or a client that sends next to nothing, does without them.
	firstSize = 16 << 10
)

var (
	buffers = sync.Pool{New: func() any { return new([2][bufferSize]byte) }}
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
	defer firsts.Put(first)
	n, err := fillBuffer(r, first[:])
	_, _ = h.Write(first[:n]) // a hash never fails
	written, werr := w.Write(first[:n])
	if werr != nil || err != nil {
		return int64(written), outcome(werr, err)
	}
	more, err := receiveLong(w, h, r)
	return int64(written) + more, err
}

// receiveLong is receive for a long blob. To hash takes as long as to read and
// write, so it has a goroutine of its own, one buffer behind.
func receiveLong(w io.Writer, h hash.Hash, r io.Reader) (total int64, err error) {
	pair := buffers.Get().(*[2][bufferSize]byte)
	work, done := make(chan []byte), make(chan struct{})
	go func() {
		defer close(done)
		for b := range work {
			_, _ = h.Write(b)
		}
	}()
	defer func() {
		close(work)
		<-done
		buffers.Put(pair)
	}()
	for i := 0; ; i ^= 1 {
		n, err := fillBuffer(r, pair[i][:])
		work <- pair[i][:n] // taken once the other buffer is hashed, and free again
		written, werr := w.Write(pair[i][:n])
		total += int64(written)
		if werr != nil || err != nil {
			return total, outcome(werr, err)
		}
	}
}

func outcome(werr, rerr error) error {
	switch {
	case werr != nil:
		return werr
	case errors.Is(rerr, io.EOF):
		return nil
	default:
		return readError{rerr}
	}
}

// fillBuffer reads until b is full or r fails or ends.
func fillBuffer(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}
