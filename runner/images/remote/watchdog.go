package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// stalledError ends a request whose server neither sends nor takes anything.
type stalledError struct {
	host string
	d    time.Duration
}

func (e *stalledError) Error() string { return fmt.Sprintf("%s sent nothing for %s", e.host, e.d) }

// Timeout makes it an error that can be retried.
func (e *stalledError) Timeout() bool { return true }

// watchdog cancels a request when nothing has happened for a while.
type watchdog struct {
	d      time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
	cause  func() error
}

func watch(ctx context.Context, host string, d time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{d: d, cancel: cancel, cause: func() error { return context.Cause(ctx) }}
	w.timer = time.AfterFunc(d, func() { cancel(&stalledError{host, d}) })
	return ctx, w
}

func (w *watchdog) alive()      { w.timer.Reset(w.d) }
func (w *watchdog) allow(n int) { w.timer.Reset(time.Duration(n) * w.d) }
func (w *watchdog) pause()      { w.timer.Stop() }
func (w *watchdog) end()        { w.timer.Stop(); w.cancel(nil) }
func (w *watchdog) explain(e error) error {
	var stalled *stalledError
	if e != nil && errors.As(w.cause(), &stalled) {
		return stalled
	}
	return e
}

// watchedBody is a response's body. Only while it is read does the time run: a
// reader that takes long is not the server's fault.
type watchedBody struct {
	io.ReadCloser
	w *watchdog
}

// Read reads on.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.w.alive()
	n, err := b.ReadCloser.Read(p)
	b.w.pause()
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.w.explain(err)
	}
	return n, err
}

// Close ends the request.
func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.w.end()
	return err
}

// drain ends a response whose body does not matter, so that its connection can
// be used again.
func drain(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorBody)) // if it fails, a new connection will do
	resp.Body.Close()
}
