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

// statuses is the table of errors: the status of each kind.
var statuses = []struct {
	kind   error
	status int
}{
	{runner.ErrInvalid, http.StatusBadRequest},
	{runner.ErrUnauthorized, http.StatusUnauthorized},
	{runner.ErrForbidden, http.StatusForbidden},
	{runner.ErrNotFound, http.StatusNotFound},
	{runner.ErrConflict, http.StatusConflict},
	{runner.ErrNotModified, http.StatusNotModified},
	{runner.ErrNotImplemented, http.StatusNotImplemented},
	{runner.ErrUnavailable, http.StatusServiceUnavailable},
	{runner.ErrPrecondition, http.StatusBadRequest},
	{errdefs.ErrAlreadyExists, http.StatusConflict},
	{errdefs.ErrAborted, http.StatusConflict},
	{errdefs.ErrOutOfRange, http.StatusBadRequest},
	{errdefs.ErrResourceExhausted, http.StatusTooManyRequests},
}

// status is that of the outermost kind of err. An error of no kind is the engine's
// fault.
func status(err error) int {
	kind := errdefs.Resolve(err)
	for _, s := range statuses {
		if errors.Is(kind, s.kind) {
			return s.status
		}
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
	gone := ctx.Err() != nil && errors.Is(err, context.Canceled)
	if code == http.StatusInternalServerError && !gone {
		level = slog.LevelError
	}
	attrs := []slog.Attr{
		slog.String("method", x.r.Method), slog.String("path", x.r.URL.Path),
		slog.Int("status", code), slog.Any("error", err),
	}
	if p, ok := errors.AsType[*panicError](err); ok {
		attrs = append(attrs, slog.Any("panic", p.value), slog.String("stack", string(p.stack)))
	}
	x.o.Log.LogAttrs(ctx, level, "request failed", attrs...)
}
