package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"

	"github.com/berth-registry/berth/runner"
)

// statuses is the table of errors: the status of each kind. An error of no kind
// is the engine's fault.
func status(err error) int {
	switch errdefs.Resolve(err) { //nolint:errorlint // Resolve returns the outermost kind itself
	case runner.ErrInvalid, errdefs.ErrOutOfRange:
		return http.StatusBadRequest
	case runner.ErrUnauthorized:
		return http.StatusUnauthorized
	case runner.ErrForbidden:
		return http.StatusForbidden
	case runner.ErrNotFound:
		return http.StatusNotFound
	case runner.ErrConflict, errdefs.ErrAlreadyExists, errdefs.ErrAborted:
		return http.StatusConflict
	case runner.ErrNotModified:
		return http.StatusNotModified
	case runner.ErrNotImplemented:
		return http.StatusNotImplemented
	case runner.ErrUnavailable:
		return http.StatusServiceUnavailable
	case runner.ErrPrecondition:
		return http.StatusBadRequest
	case errdefs.ErrResourceExhausted:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}

// panicError is a panic of a handler.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return "panic while serving a request" }

// fail tells the client of err. What can no longer be told, because an answer is
// under way, breaks the connection: half an archive must not look like a whole
// one.
func (x *exchange) fail(err error) {
	code := status(err)
	x.logFailure(err, code)
	if x.w.hijacked {
		return
	}
	if x.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	h := x.w.Header()
	h.Del("X-Docker-Container-Path-Stat")
	if code == http.StatusNotModified {
		h.Del("Content-Type")
		x.w.WriteHeader(code)
		return
	}
	// Nobody reads an error of a client that is gone.
	_ = x.json(code, common.ErrorResponse{Message: err.Error()})
}

func (x *exchange) logFailure(err error, code int) {
	ctx := x.r.Context()
	level := slog.LevelDebug
	if code == http.StatusInternalServerError && !(errors.Is(err, context.Canceled) && ctx.Err() != nil) {
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("method", x.r.Method), slog.String("path", x.r.URL.Path),
		slog.Int("status", code), slog.Any("error", err),
	}
	var p *panicError
	if errors.As(err, &p) {
		attrs = append(attrs, slog.Any("panic", p.value), slog.String("stack", string(p.stack)))
	}
	x.o.Log.LogAttrs(ctx, level, "request failed", attrs...)
}
