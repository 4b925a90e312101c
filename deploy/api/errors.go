package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/containerd/errdefs"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// statuses is the table of errors: the status of each kind. Of two kinds with one
// status, the first is what the client makes of it.
var statuses = []struct {
	kind   error
	status int
}{
	{runner.ErrInvalid, http.StatusBadRequest},
	{runner.ErrUnauthorized, http.StatusUnauthorized},
	{runner.ErrForbidden, http.StatusForbidden},
	{runner.ErrNotFound, http.StatusNotFound},
	{runner.ErrConflict, http.StatusConflict},
	{runner.ErrPrecondition, http.StatusPreconditionFailed},
	{errdefs.ErrResourceExhausted, http.StatusRequestEntityTooLarge},
	{runner.ErrNotImplemented, http.StatusNotImplemented},
	{runner.ErrUnavailable, http.StatusServiceUnavailable},
	{errdefs.ErrAlreadyExists, http.StatusConflict},
	{errdefs.ErrAborted, http.StatusConflict},
	{errdefs.ErrOutOfRange, http.StatusBadRequest},
}

// status is that of the outermost kind of err. An error of no kind is the daemon's
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

// answerError is an error on its way: the body of an answer, and, in a line of a
// stream, with the status that it would have had.
type answerError struct {
	Message string          `json:"message"`
	Status  int             `json:"status,omitempty"`
	Failure *deploy.Failure `json:"failure,omitempty"`
}

// toAnswer prepares an error for its way.
func toAnswer(err error) *answerError {
	a := &answerError{Message: err.Error()}
	if f, ok := errors.AsType[*deploy.Failure](err); ok {
		a.Failure = f
	}
	return a
}

// toError makes of an answer what it was.
func (a *answerError) toError(code int) error {
	if a.Failure != nil {
		return a.Failure
	}
	code = cmp.Or(a.Status, code)
	for _, s := range statuses {
		if s.status == code {
			return runner.Errorf(s.kind, "%s", a.Message)
		}
	}
	return errors.New(cmp.Or(a.Message, http.StatusText(code)))
}

// fail tells the client of err. What can no longer be told, because an answer is under
// way, is told by a connection that breaks.
func (x *exchange) fail(err error) {
	code := status(err)
	x.logFailure(err, code)
	if x.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	_ = x.json(code, toAnswer(err)) // nobody reads an error of a client that is gone
}

func (x *exchange) logFailure(err error, code int) {
	ctx := x.r.Context()
	level := slog.LevelDebug
	gone := ctx.Err() != nil && errors.Is(err, context.Canceled)
	_, failure := errors.AsType[*deploy.Failure](err)
	if code == http.StatusInternalServerError && !gone && !failure {
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

// panicError is a panic of a handler.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return "panic while serving a request" }
