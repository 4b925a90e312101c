package registry

import (
	"errors"
	"hash"
	"io"
	"sync"
)

// bufferSize is how much of a blob is in memory at a time, twice.
const bufferSize = 128 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// readError is a failure of the reader that a client's bytes come from, as
// opposed to one of the store.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

// receive writes r to w and to h until r ends, and returns how many bytes it
// wrote. A failure of r is a readError, and what came before it was written and
// hashed.
func receive(w io.Writer, h hash.Hash, r io.Reader) (int64, error) {
	first, second := buffers.Get().(*[bufferSize]byte), buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(first)
	defer buffers.Put(second)

	n, err := fillBuffer(r, first[:])
	if err == nil {
		return receiveLong(w, h, r, first[:], second[:])
	}
	_, _ = h.Write(first[:n]) // a hash never fails
	written, werr := w.Write(first[:n])
	return int64(written), outcome(werr, err)
}

// receiveLong goes on after a full first buffer. To hash takes as long as to
// read and write, so it has a goroutine of its own, one buffer behind.
func receiveLong(w io.Writer, h hash.Hash, r io.Reader, filled, other []byte) (total int64, err error) {
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
	}()
	for n := len(filled); ; n, err = fillBuffer(r, filled) {
		work <- filled[:n] // taken once the other buffer is hashed and may be filled
		written, werr := w.Write(filled[:n])
		total += int64(written)
		if werr != nil || err != nil {
			return total, outcome(werr, err)
		}
		filled, other = other, filled
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
