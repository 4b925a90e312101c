package registry

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/berth-registry/berth/storage"
)

// response counts what is written, and keeps the way to sendfile open.
type response struct {
	http.ResponseWriter
	status int
	n      int64
}

func (w *response) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// ReadFrom lets the connection use sendfile.
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseWriter, r)
	w.n += n
	return n, err
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// bodyProgress is how many bytes of a request's body must come within the time
// of BodyTimeout, unless there are fewer: a client that sends a byte now and
// then is as good as gone.
const bodyProgress = 16 << 10

// body is a request's body that gives a slow client up, and can be interrupted.
type body struct {
	r           io.Reader
	control     *http.ResponseController
	timeout     time.Duration
	n           int64 // bytes read
	length      int64 // that the client says the body has, or -1
	due         int64 // how many there must be before the client gets more time
	interrupted atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.n >= b.due {
		b.due = b.n + bodyProgress
		_ = b.control.SetReadDeadline(time.Now().Add(b.timeout)) // a recorder in a test has none
	}
	if b.interrupted.Load() { // perhaps before the line above gave more time
		return 0, os.ErrDeadlineExceeded
	}
	n, err := b.r.Read(p)
	b.n += int64(n)
	if err == io.EOF {
		// The deadline was for this body; the connection has a life after it.
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// Length implements Lengther.
func (b *body) Length() int64 { return b.length }

// Interrupt implements Interrupter.
func (b *body) Interrupt() {
	b.interrupted.Store(true)
	_ = b.control.SetReadDeadline(time.Now())
}

// fail answers with an error, and returns what the client was told.
func (x *exchange) fail(err error, id string) error {
	kind, text := explain(err)
	if kind == ErrUnavailable && x.clientGone(err) {
		kind, text = ErrRequestBroken, "the client closed the connection"
	}
	if kind.Status >= http.StatusInternalServerError {
		x.logFailure(err, id)
	}
	if x.w.status != 0 {
		// The answer has begun with the length of what it should have been: ending
		// it early breaks the connection, which is the one way left to say so.
		return err
	}
	h := x.w.Header()
	h.Del("Content-Length")
	h.Del("Etag")
	if kind == ErrTimeout || kind == ErrRequestBroken {
		h.Set("Connection", "close")
	}
	if kind == ErrUnavailable || kind == ErrReadOnly || kind == ErrBusy {
		h.Set("Retry-After", "5")
	}
	var told interface{ Header() http.Header } // an error may bring headers of its answer
	if errors.As(err, &told) {
		maps.Copy(h, told.Header())
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	data, jerr := json.Marshal(errorBody{[]errorEntry{{kind.Code, text}}})
	if jerr != nil {
		return errors.Join(err, jerr)
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	x.w.WriteHeader(kind.Status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(data) // nobody is left to be told
	}
	return &detailed{kind, text}
}

// errorBody is the body of an error (specification, "Error Codes").
type errorBody struct {
	Errors []errorEntry `json:"errors"`
}

type errorEntry struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// explain finds the error of the protocol for any error, and what to tell the
// client. What it cannot place is the store's failure: its text is for the log.
func explain(err error) (*Error, string) {
	var kind *Error
	var broken readError
	switch {
	case errors.As(err, &broken):
		kind = ErrRequestBroken
		if errors.Is(err, os.ErrDeadlineExceeded) {
			kind = ErrTimeout
		}
	case errors.Is(err, storage.ErrNoSpace):
		kind = ErrNoSpace
	case errors.Is(err, storage.ErrReadOnly):
		kind = ErrReadOnly
	case errors.As(err, &kind):
		if d, ok := errors.AsType[*detailed](err); ok {
			return kind, d.text
		}
	default:
		kind = ErrUnavailable
	}
	return kind, kind.Message
}

func (x *exchange) logFailure(err error, id string) {
	attrs := []any{"request", id, "method", x.r.Method, "path", clip(x.r.URL.Path), "error", err}
	if p, ok := errors.AsType[*panicError](err); ok {
		attrs = append(attrs, "panic", p.value, "stack", string(p.stack))
	}
	x.o.Log.Log(x.ctx(), slog.LevelError, "request failed", attrs...)
}

// json answers with a JSON body.
func (x *exchange) json(mediaType string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return x.bytes(mediaType, data)
}

// bytes answers with a body that is in memory.
func (x *exchange) bytes(mediaType string, data []byte) error {
	h := x.w.Header()
	h["Content-Type"] = []string{mediaType}
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	x.w.WriteHeader(http.StatusOK)
	if x.r.Method == http.MethodHead {
		return nil
	}
	_, err := x.w.Write(data)
	return err
}

// created answers that content was stored.
func (x *exchange) created(location string, d Descriptor) error {
	h := x.w.Header()
	h.Set("Location", location)
	h.Set("Docker-Content-Digest", string(d.Digest))
	return x.empty(http.StatusCreated)
}

// empty answers without a body.
func (x *exchange) empty(status int) error {
	if status != http.StatusNoContent {
		x.w.Header().Set("Content-Length", "0")
	}
	x.w.WriteHeader(status)
	return nil
}
