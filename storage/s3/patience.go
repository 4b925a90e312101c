package s3

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errSilent says that a request was given up because no byte moved for too long.
var errSilent = errors.New("the server does not answer")

// patient is a transport that gives a request up when no byte of it or of its
// answer has moved for some time. Time that passes while nobody wants to read an
// answer does not count.
type patient struct {
	next    http.RoundTripper
	timeout time.Duration
}

type patienceKey struct{}

// withPatience has requests wait longer for a byte: those for which the server has
// much to do before it answers.
func withPatience(ctx context.Context, more time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, more)
}

// copyTime is how much longer than usual a server may be silent while it works on
// size bytes: as if it did so with 16 MiB a second.
func copyTime(size int64) time.Duration {
	return time.Duration(size>>24) * time.Second
}

// RoundTrip implements http.RoundTripper.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	more, _ := r.Context().Value(patienceKey{}).(time.Duration)
	ctx, cancel := context.WithCancelCause(r.Context())
	w := &watch{timeout: p.timeout + more}
	w.timer = time.AfterFunc(w.timeout, func() { cancel(errSilent) })
	w.cancel = func() { cancel(nil) }
	w.cause = func() error { return context.Cause(ctx) }
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &sending{r.Body, w}
	}
	resp, err := p.next.RoundTrip(r)
	w.answered()
	if err != nil {
		w.cancel()
		return nil, w.explain(err)
	}
	resp.Body = &receiving{resp.Body, w}
	return resp, nil
}

// watch is the time that a request has for its next byte.
type watch struct {
	timeout time.Duration
	timer   *time.Timer
	cancel  func()
	cause   func() error

	mu   sync.Mutex
	over bool // the request is answered: what is still sent does not count
}

func (w *watch) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

func (w *watch) sent() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Reset(w.timeout)
	}
}

// explain names the reason of an error if that was the time.
func (w *watch) explain(err error) error {
	if errors.Is(w.cause(), errSilent) {
		return errSilent
	}
	return err
}

type sending struct {
	io.ReadCloser
	watch *watch
}

func (s *sending) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.watch.sent()
	return n, err
}

type receiving struct {
	io.ReadCloser
	watch *watch
}

func (r *receiving) Read(p []byte) (int, error) {
	r.watch.timer.Reset(r.watch.timeout)
	n, err := r.ReadCloser.Read(p)
	r.watch.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.watch.explain(err)
	}
	return n, err
}

func (r *receiving) Close() error {
	r.watch.timer.Stop()
	defer r.watch.cancel()
	return r.ReadCloser.Close()
}
