package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/berth-registry/berth/registry"
)

// Unavailable is the error of an upstream that gave no answer which counts: what
// is cached stays valid. As an error of package registry it is ErrTooMany if
// Limited, ErrDenied if Denied, and ErrUnavailable otherwise. Errors that a
// transfer was broken off with wrap io.ErrUnexpectedEOF, too.
type Unavailable struct {
	Name   string    // of the mirror, or whatever Kind says
	Kind   string    // that of Options; "mirror" if empty
	Reason string    // for users, without URLs
	Until  time.Time // the upstream is left alone until then; zero if it is not

	// Limited says that the upstream limits how often it is asked (429).
	Limited bool
	// Denied says that the upstream is well and lets the mirror in, but not at
	// what was asked for: it may not exist.
	Denied bool

	wait  time.Duration // until Until
	cause error         // a sentinel, or nil
}

// Error is fit for users.
func (e *Unavailable) Error() string {
	return fmt.Sprintf("%s %s: %s", cmp.Or(e.Kind, defaultKind), e.Name, e.Reason)
}

// Unwrap gives the error of package registry, with the text of e.
func (e *Unavailable) Unwrap() []error {
	kind := registry.ErrUnavailable
	switch {
	case e.Limited:
		kind = registry.ErrTooMany
	case e.Denied:
		kind = registry.ErrDenied
	}
	all := []error{kind.With("%s", e.Error())}
	if e.cause != nil {
		all = append(all, e.cause)
	}
	return all
}

// Header is what an answer made of e has besides: Retry-After in seconds, if it
// is known.
func (e *Unavailable) Header() http.Header {
	wait := e.wait
	if wait == 0 && !e.Until.IsZero() {
		wait = time.Until(e.Until)
	}
	if wait <= 0 {
		return http.Header{}
	}
	seconds := (wait + time.Second - 1) / time.Second
	return http.Header{"Retry-After": {strconv.FormatInt(int64(seconds), 10)}}
}

// IsUnavailable says whether an error is an *Unavailable: no word of the
// upstream on what was asked.
func IsUnavailable(err error) bool {
	_, ok := errors.AsType[*Unavailable](err)
	return ok
}
