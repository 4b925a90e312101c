package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

// response knows how far the answer has come.
type response struct {
	http.ResponseWriter
	status   int // 0: not begun
	hijacked bool
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(code int) {
	if w.status == 0 {
		w.status = code
		w.ResponseWriter.WriteHeader(code)
	}
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Flush sends what was written, and the headers if nothing was.
func (w *response) Flush() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	// An error comes back at the next write.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// json answers with v. Clients compare the content type as a string.
func (x *exchange) json(code int, v any) error {
	x.w.Header()["Content-Type"] = []string{"application/json"}
	x.w.WriteHeader(code)
	enc := json.NewEncoder(x.w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// jsonList answers with a list that may be long: a client has its beginning while
// the rest is encoded.
func jsonList[E any](x *exchange, list []E) error {
	const part = 64 << 10
	x.w.Header()["Content-Type"] = []string{"application/json"}
	x.w.WriteHeader(http.StatusOK)
	text := bytes.NewBufferString("[")
	enc := json.NewEncoder(text)
	enc.SetEscapeHTML(false)
	for i := range list {
		if i > 0 {
			text.WriteByte(',')
		}
		if err := enc.Encode(&list[i]); err != nil {
			return err
		}
		text.Truncate(text.Len() - 1) // the end of the line
		if text.Len() >= part {
			if _, err := text.WriteTo(x.w); err != nil {
				return err
			}
		}
	}
	text.WriteString("]\n")
	_, err := text.WriteTo(x.w)
	return err
}

// done answers with a status and no body.
func (x *exchange) done(code int) error {
	x.w.WriteHeader(code)
	return nil
}

// flushed is a writer whose bytes are sent soon: as many at a time as come while
// those before are on their way.
type flushed struct {
	mu    sync.Mutex
	w     *response
	dirty chan struct{}
	done  chan struct{}
}

func newFlushed(w *response) *flushed {
	f := &flushed{w: w, dirty: make(chan struct{}, 1), done: make(chan struct{})}
	w.Flush()
	go func() {
		defer close(f.done)
		for range f.dirty {
			f.mu.Lock()
			w.Flush()
			f.mu.Unlock()
		}
	}()
	return f
}

var _ io.WriteCloser = (*flushed)(nil)

func (f *flushed) Write(p []byte) (int, error) {
	f.mu.Lock()
	n, err := f.w.Write(p)
	f.mu.Unlock()
	select {
	case f.dirty <- struct{}{}:
	default:
	}
	return n, err
}

// Close returns when nothing is written any more. There must be no Write after
// or beside it.
func (f *flushed) Close() error {
	close(f.dirty)
	<-f.done
	return nil
}
