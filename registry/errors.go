package registry

import (
	"fmt"
	"net/http"
)

// Error is an error of the protocol: a code of the specification, "Error Codes",
// and an HTTP status. UNAVAILABLE, which goes with statuses from 500, is of
// Docker's registry API: the specification has none for them. The variables below are all there are; errors
// that methods return wrap one of them, with a message for the user:
//
//	errors.Is(err, registry.ErrBlobUnknown)
type Error struct {
	Code    string // of the specification's table
	Status  int    // HTTP status
	Message string // when there is nothing more to say
}

func (e *Error) Error() string { return e.Message }

// With returns an error that wraps e and says more: its message is for the
// user, and never names a path, a key or a query of the store.
func (e *Error) With(format string, args ...any) error {
	return &detailed{e, fmt.Sprintf(format, args...)}
}

type detailed struct {
	kind *Error
	text string
}

func (d *detailed) Error() string { return d.text }
func (d *detailed) Unwrap() error { return d.kind }

// The errors of the protocol: the one table from code to status.
var (
	ErrBlobUnknown         = &Error{"BLOB_UNKNOWN", http.StatusNotFound, "blob unknown to repository"}
	ErrUploadInvalid       = &Error{"BLOB_UPLOAD_INVALID", http.StatusBadRequest, "blob upload invalid"}
	ErrUploadUnknown       = &Error{"BLOB_UPLOAD_UNKNOWN", http.StatusNotFound, "blob upload unknown to registry"}
	ErrRangeInvalid        = &Error{"BLOB_UPLOAD_INVALID", http.StatusRequestedRangeNotSatisfiable, "range does not continue the upload"}
	ErrRangeUnsatisfiable  = &Error{"UNSUPPORTED", http.StatusRequestedRangeNotSatisfiable, "range is outside the content"}
	ErrDigestInvalid       = &Error{"DIGEST_INVALID", http.StatusBadRequest, "digest invalid or not of the content"}
	ErrManifestBlobUnknown = &Error{"MANIFEST_BLOB_UNKNOWN", http.StatusNotFound, "manifest references a manifest or blob unknown to repository"}
	ErrManifestInvalid     = &Error{"MANIFEST_INVALID", http.StatusBadRequest, "manifest invalid"}
	ErrManifestTooLarge    = &Error{"MANIFEST_INVALID", http.StatusRequestEntityTooLarge, "manifest is larger than 4 MiB"}
	ErrManifestUnknown     = &Error{"MANIFEST_UNKNOWN", http.StatusNotFound, "manifest unknown to repository"}
	ErrNameInvalid         = &Error{"NAME_INVALID", http.StatusBadRequest, "invalid repository name"}
	ErrNameUnknown         = &Error{"NAME_UNKNOWN", http.StatusNotFound, "repository name not known to registry"}
	ErrTagInvalid          = &Error{"NAME_INVALID", http.StatusBadRequest, "invalid tag"}
	ErrPageInvalid         = &Error{"UNSUPPORTED", http.StatusBadRequest, "invalid number of results requested"}
	ErrSizeInvalid         = &Error{"SIZE_INVALID", http.StatusBadRequest, "provided length did not match content length"}
	ErrBusy                = &Error{"TOOMANYREQUESTS", http.StatusTooManyRequests, "too many large manifests at once; try again"}
	ErrReferenced          = &Error{"DENIED", http.StatusMethodNotAllowed, "a manifest of the repository references it"}
	ErrDenied              = &Error{"DENIED", http.StatusForbidden, "requested access to the resource is denied"}
	ErrUnauthorized        = &Error{"UNAUTHORIZED", http.StatusUnauthorized, "authentication required"}
	ErrTooMany             = &Error{"TOOMANYREQUESTS", http.StatusTooManyRequests, "too many requests; try again later"}
	ErrTooLarge            = &Error{"SIZE_INVALID", http.StatusRequestEntityTooLarge, "content is larger than this registry takes"}
	ErrQuota               = &Error{"DENIED", http.StatusForbidden, "the quota of the repository is used up"}
	ErrTagImmutable        = &Error{"DENIED", http.StatusForbidden, "tag is immutable"}
	ErrRouteUnknown        = &Error{"UNSUPPORTED", http.StatusNotFound, "no such route: this is an OCI registry, its API starts at /v2/"}
	ErrMethod              = &Error{"UNSUPPORTED", http.StatusMethodNotAllowed, "method not allowed on this route"}
	ErrRequestBroken       = &Error{"BLOB_UPLOAD_INVALID", http.StatusBadRequest, "request body ended before its length"}
	ErrTimeout             = &Error{"BLOB_UPLOAD_INVALID", http.StatusRequestTimeout, "request body came too slowly"}
	ErrNoSpace             = &Error{"UNAVAILABLE", http.StatusInsufficientStorage, "the registry's disk is full; free some space and push again"}
	ErrReadOnly            = &Error{"UNAVAILABLE", http.StatusServiceUnavailable, "the registry's storage is read-only"}
	ErrUnavailable         = &Error{"UNAVAILABLE", http.StatusServiceUnavailable, "the registry's storage failed; see its log"}
)
