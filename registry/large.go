package registry

import (
	"errors"
	"io"
	"sync/atomic"
)

const (
	// usualManifest is the size in bytes up to which a manifest is read without
	// asking whether there is room: nearly all are smaller.
	usualManifest = 64 << 10
	// largeManifests is how many bytes of larger ones are in memory at a time, in
	// all requests together.
	largeManifests = 16 << 20
)

// large bounds the memory of manifests that are being pushed. A client that is
// slow, or does not go on at all, holds what it has sent so far.
type large struct{ used atomic.Int64 }

// read reads a manifest; length is what its client says that it has, or -1. It
// fails with ErrManifestTooLarge, or with ErrBusy if
// there is no room for another large one. release gives the room back.
func (l *large) read(r io.Reader, length int64) (data []byte, release func(), err error) {
	var held int64
	release = func() { l.used.Add(-held) }
	data = make([]byte, 0, firstSize)
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case len(data) > MaxManifest:
			return nil, release, ErrManifestTooLarge
		case errors.Is(err, io.EOF):
			return data, release, nil
		case err != nil:
			return nil, release, readError{err}
		case len(data) < cap(data):
			continue
		}
		size := min(2*cap(data), MaxManifest+1)
		if size > usualManifest {
			if int64(cap(data)) <= length {
				size = min(int(length), MaxManifest) + 1 // one more, to see the end
			}
			more := int64(size) - held
			held += more
			if l.used.Add(more) > largeManifests {
				return nil, release, ErrBusy
			}
		}
		data = append(make([]byte, 0, size), data...)
	}
}
