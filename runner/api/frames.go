package api

import (
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// frames puts several streams on one, in the frames that
// github.com/moby/moby/api/pkg/stdcopy takes apart: a byte that says which stream,
// three of zero, the length in four bytes, the most significant first, and then as
// many bytes.
type frames struct {
	mu     sync.Mutex
	w      io.Writer
	header [8]byte
	parts  [2][]byte
}

// stream returns a writer whose every Write is a frame. It may be used beside
// those of the other streams.
func (f *frames) stream(of stdcopy.StdType) io.Writer { return &frameWriter{f, of} }

type frameWriter struct {
	f  *frames
	of stdcopy.StdType
}

// maxFrame keeps what a reader must hold of a frame small.
const maxFrame = 1 << 20

func (w *frameWriter) Write(p []byte) (n int, err error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	for len(p) > 0 && err == nil {
		var wrote int
		wrote, err = w.f.write(w.of, p[:min(len(p), maxFrame)])
		n += wrote
		p = p[wrote:]
	}
	return n, err
}

// write sends one frame, header and content by one system call where w is a
// connection.
func (f *frames) write(of stdcopy.StdType, p []byte) (int, error) {
	f.header[0] = byte(of)
	binary.BigEndian.PutUint32(f.header[4:], uint32(len(p)))
	f.parts = [2][]byte{f.header[:], p}
	both := net.Buffers(f.parts[:])
	n, err := both.WriteTo(f.w)
	f.parts = [2][]byte{}
	return max(int(n)-len(f.header), 0), err
}
