package remote

import (
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/berth-registry/berth/registry"
)

// body sends a reader that is not ours. It stops reading it when the request
// is over, even where net/http would go on in the background; it never closes
// it; and it remembers the reader's own error.
type body struct {
	mu      sync.Mutex
	r       io.Reader
	start   int64 // where r began, if it can seek
	seeks   bool
	size    int64 // that r must have; -1 if nobody knows
	sent    int64
	err     error
	stopped bool
}

// newBody sends all of r, which must have as many bytes as chunk says.
func newBody(r io.Reader, chunk registry.Chunk) *body {
	b := &body{r: r, size: -1}
	if r == nil || r == http.NoBody {
		b.r, b.size = http.NoBody, 0
	}
	if s, ok := r.(io.Seeker); ok {
		b.measure(s)
	} else if l, ok := r.(interface{ Len() int }); ok {
		b.size = int64(l.Len())
	}
	if chunk.Known && b.size < 0 {
		b.size = chunk.Last - chunk.First + 1
	}
	return b
}

func (b *body) measure(s io.Seeker) {
	start, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return // a pipe
	}
	end, err := s.Seek(0, io.SeekEnd)
	if err != nil {
		return
	}
	if _, err := s.Seek(start, io.SeekStart); err != nil {
		b.err = err
		return
	}
	b.start, b.seeks, b.size = start, true, max(end-start, 0)
}

// attach makes b the body of req, to be sent again if req has to be and b can.
func (b *body) attach(req *http.Request) {
	if b.size == 0 {
		req.Body = http.NoBody // a zero ContentLength with a body means unknown
		return
	}
	req.Body, req.ContentLength = &bodyOnce{b: b}, b.size
	if b.seeks {
		req.GetBody = b.rewind
	}
}

// bodyOnce is one sending of a body. An earlier one that net/http is not done
// with reads no more once a later one began.
type bodyOnce struct {
	b    *body
	over bool
}

// Read reads on, unless the body's time is over.
func (o *bodyOnce) Read(p []byte) (int, error) {
	o.b.mu.Lock()
	defer o.b.mu.Unlock()
	if o.over || o.b.stopped {
		return 0, http.ErrBodyReadAfterClose
	}
	return o.b.read(p)
}

// Close ends this sending of the body, not its reader.
func (o *bodyOnce) Close() error {
	o.b.mu.Lock()
	defer o.b.mu.Unlock()
	o.over = true
	return nil
}

func (b *body) rewind() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.r.(io.Seeker).Seek(b.start, io.SeekStart); err != nil {
		return nil, err
	}
	b.sent, b.err = 0, nil
	return &bodyOnce{b: b}, nil
}

// read reads r, and fails with ErrSizeInvalid before the last byte is sent if r
// is not as long as it must be: a request once complete cannot be taken back.
func (b *body) read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	switch {
	case b.size < 0:
	case b.sent+int64(n) > b.size, b.sent+int64(n) == b.size && err == nil && b.more():
		n, err = 0, registry.ErrSizeInvalid.With("more than the %d bytes announced", b.size)
	case errors.Is(err, io.EOF) && b.sent+int64(n) < b.size:
		err = registry.ErrSizeInvalid.With("%d bytes instead of the %d announced", b.sent+int64(n), b.size)
	}
	b.sent += int64(n)
	if err != nil {
		b.err = err
	}
	return n, err
}

// more says whether r has another byte, which it loses.
func (b *body) more() bool {
	var one [1]byte
	for range 100 {
		n, err := b.r.Read(one[:])
		if n > 0 {
			return true
		}
		if err != nil {
			b.err = err
			return false
		}
	}
	return false
}

// stop ends all reading of r. It waits for a read under way.
func (b *body) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
}

// failure is why r could not be sent, if that was r's fault.
func (b *body) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.err, io.EOF) {
		return nil
	}
	return b.err
}

// length is how many bytes were sent.
func (b *body) length() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent
}
