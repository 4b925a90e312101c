package remote

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// answerTime is how many times longer than between two bytes a server may take
// to answer when it has a whole body: it may have to hash or copy a layer first.
const answerTime = 10

// sourceError is a failure to read what is to be sent.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// attach gives a request its body.
func attach(req *http.Request, q call, w *watchdog) error {
	if q.body == nil || q.size == 0 {
		if req.Method == http.MethodPut {
			w.allow(answerTime) // it ends an upload
		}
		return nil // NoBody, as a zero ContentLength with a body means unknown
	}
	open := func() (io.ReadCloser, error) {
		r, err := q.body()
		if err != nil {
			return nil, sourceError{err}
		}
		return &sentBody{r: r, left: q.size, w: w}, nil
	}
	body, err := open()
	if err != nil {
		return err
	}
	req.Body, req.GetBody, req.ContentLength = body, open, q.size
	return nil
}

// sentBody is the body of a request on its way. net/http may close it while it
// is being read.
type sentBody struct {
	mu   sync.Mutex
	r    io.ReadCloser
	left int64
	w    *watchdog
	over bool
}

var errShort = sourceError{errors.New("the content is shorter than its descriptor says")}

// Read reads on. A source that ends early fails the request before it is whole.
func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.left == 0 {
		b.w.allow(answerTime)
		return 0, io.EOF
	}
	b.w.alive()
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		b.w.allow(answerTime)
		return n, io.EOF
	case errors.Is(err, io.EOF):
		return n, errShort
	case err != nil:
		return n, sourceError{err}
	}
	return n, nil
}

// Close ends the sending.
func (b *sentBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil
	}
	b.over = true
	return b.r.Close()
}
