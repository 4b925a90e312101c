package mirror

import (
	"context"
	"errors"
	"net"
	"net/url"

	"github.com/berth-registry/berth/registry"
)

// absent is the upstream's word that it does not have something.
type absent struct{ error }

func (a *absent) Unwrap() error { return a.error }

func isAbsent(err error) bool {
	_, ok := errors.AsType[*absent](err)
	return ok
}

// saysNo says that an error of an upstream is its word on what was asked, and not on
// how it is.
func saysNo(err error) bool {
	for _, kind := range []*registry.Error{
		registry.ErrBlobUnknown, registry.ErrManifestUnknown, registry.ErrNameUnknown,
		registry.ErrNameInvalid, registry.ErrTagInvalid, registry.ErrRouteUnknown,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// missing is what a client is told that asked for what the upstream does not have.
func (m *mirrored) missing(q question) error {
	theirs := m.theirs(q.repo)
	switch q.kind {
	case aBlob:
		return registry.ErrBlobUnknown.With("blob %s is unknown to repository %s of mirror %s", q.ref, theirs, m.Name)
	case theTags:
		return registry.ErrNameUnknown.With("repository %s is not known to mirror %s", theirs, m.Name)
	default:
		return registry.ErrManifestUnknown.With("manifest %s is unknown to repository %s of mirror %s", q.ref, theirs, m.Name)
	}
}

// failure is what a client is told when the upstream has not given what is not
// cached. An error that says so already, as those of package upstream do, stays as it
// is, with its headers.
func (m *mirrored) failure(err error) error {
	for _, kind := range []*registry.Error{registry.ErrTooMany, registry.ErrUnavailable, registry.ErrDenied} {
		if errors.Is(err, kind) {
			return err
		}
	}
	return registry.ErrUnavailable.With("mirror %s: %s", m.Name, reason(err))
}

// reason is an error in words for users: without URLs, which may be signed.
func reason(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return reason(u.Err)
	}
	if t, ok := errors.AsType[net.Error](err); ok && t.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "the upstream did not answer in time"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}
