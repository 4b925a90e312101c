package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// progress is how many bytes must come within an idle timeout, unless there are
// fewer: an upstream that sends a byte now and then is as good as gone.
const progress = 16 << 10

var errStalled = errors.New("the transfer stalled")

// watch breaks an exchange off whose bodies do not get on.
type watch struct {
	limit   time.Duration
	cancel  context.CancelCauseFunc
	stalled func() bool // whether it was broken off
	unread  atomic.Bool // what was to be sent could not be read
}

func (w *watch) timer() *time.Timer {
	t := time.AfterFunc(w.limit, func() { w.cancel(errStalled) })
	t.Stop()
	return t
}

// receiving watches over the body of an answer.
func (w *watch) receiving(u *Upstream, resp *http.Response) io.ReadCloser {
	return &body{
		u: u, host: resp.Request.URL.Host, r: resp.Body, w: w, over: resp.Request.Context().Err,
		timer: w.timer(), left: w.limit, due: progress,
	}
}

// body is an answer's body that is broken off when it does not get on.
type body struct {
	u    *Upstream
	host string
	r    io.ReadCloser
	w    *watch
	over func() error // of the request: not nil when the caller gave it up, or w did

	timer *time.Timer
	n     int64
	due   int64         // how many bytes there must be before it gets more time
	left  time.Duration // for that
}

// Read reads on. It fails with an *Unavailable that wraps io.ErrUnexpectedEOF if
// the upstream breaks the body off, or it is broken off.
func (b *body) Read(p []byte) (int, error) {
	began := time.Now()
	b.timer.Reset(b.left)
	n, err := b.r.Read(p)
	b.timer.Stop()
	b.n += int64(n)
	b.u.counts.bytes.Add(int64(n))
	if b.n >= b.due {
		b.left, b.due = b.w.limit, b.n+progress
	} else {
		b.left = max(b.left-time.Since(began), time.Nanosecond)
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, b.broken(err)
}

// broken explains the end of a body before its time.
func (b *body) broken(err error) error {
	if b.w.stalled() {
		b.u.counts.broken.Add(1)
		return &Unavailable{
			Name: b.u.o.Name, Kind: b.u.o.Kind, Reason: fmt.Sprintf("%s sent too little for %v, and was broken off", b.host, b.w.limit),
			cause: io.ErrUnexpectedEOF,
		}
	}
	if b.over() != nil || errors.Is(err, http.ErrBodyReadAfterClose) {
		return err
	}
	b.u.counts.broken.Add(1)
	return &Unavailable{Name: b.u.o.Name, Kind: b.u.o.Kind, Reason: b.host + " broke the transfer off", cause: io.ErrUnexpectedEOF}
}

// Close ends the transfer.
func (b *body) Close() error {
	b.timer.Stop()
	err := b.r.Close()
	b.w.cancel(nil)
	return err
}

// sending watches over the body of a request.
func (w *watch) sending(req *http.Request) *http.Request {
	if req.Body == nil || req.Body == http.NoBody {
		return req
	}
	wrap := func(r io.ReadCloser) io.ReadCloser { return &sent{r: r, timer: w.timer(), w: w} }
	req.Body = wrap(req.Body)
	if again := req.GetBody; again != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			r, err := again()
			if err != nil {
				return nil, err
			}
			return wrap(r), nil
		}
	}
	return req
}

// sent is a request's body. Between two reads it is being sent.
type sent struct {
	r     io.ReadCloser
	timer *time.Timer
	w     *watch
}

// Read reads on. The time that the reader takes is not the upstream's.
func (s *sent) Read(p []byte) (int, error) {
	s.timer.Stop()
	n, err := s.r.Read(p)
	switch {
	case err == nil:
		s.timer.Reset(s.w.limit)
	case err != io.EOF:
		s.w.unread.Store(true)
	}
	return n, err
}

// Close ends the watch.
func (s *sent) Close() error {
	s.timer.Stop()
	return s.r.Close()
}
