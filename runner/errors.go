package runner

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// The kinds of errors that cross the packages of the runner, found by
// errors.Is. runner/api has the one table from kind to HTTP status.
var (
	ErrInvalid        error = errdefs.ErrInvalidArgument    // the request is wrong: 400
	ErrUnauthorized   error = errdefs.ErrUnauthenticated    // a registry wants other credentials: 401
	ErrForbidden      error = errdefs.ErrPermissionDenied   // 403
	ErrNotFound       error = errdefs.ErrNotFound           // 404
	ErrConflict       error = errdefs.ErrConflict           // the state of things forbids it: 409
	ErrNotModified    error = errdefs.ErrNotModified        // it is so already: 304
	ErrNotImplemented error = errdefs.ErrNotImplemented     // Berth does not do that: 501
	ErrUnavailable    error = errdefs.ErrUnavailable        // try again later: 503
	ErrPrecondition   error = errdefs.ErrFailedPrecondition // what it needs is not there
)

// Errorf returns an error of a kind whose text is the formatted message alone:
// it is what a user of the docker command reads. Wrapping by %w works as in
// fmt.Errorf.
func Errorf(kind error, format string, args ...any) error {
	return &kindError{kind: kind, err: fmt.Errorf(format, args...)}
}

type kindError struct{ kind, err error }

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }
