package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// The errors of the API beside those of package registry: ErrUnauthorized,
// ErrDenied, ErrRouteUnknown, ErrMethod, ErrUnavailable. A Client's methods return
// the same errors as the server has met.
var (
	ErrRequestInvalid  = &registry.Error{Code: "REQUEST_INVALID", Status: http.StatusBadRequest, Message: "request invalid"}
	ErrRequestTooLarge = &registry.Error{Code: "REQUEST_INVALID", Status: http.StatusRequestEntityTooLarge, Message: "request is larger than 64 KiB"}
	ErrRequestSlow     = &registry.Error{Code: "REQUEST_INVALID", Status: http.StatusRequestTimeout, Message: "request body came too slowly"}
	ErrMediaType       = &registry.Error{Code: "REQUEST_INVALID", Status: http.StatusUnsupportedMediaType, Message: "want Content-Type: application/json"}
	ErrAccountUnknown  = &registry.Error{Code: "ACCOUNT_UNKNOWN", Status: http.StatusNotFound, Message: "no such account"}
	ErrAccountExists   = &registry.Error{Code: "ACCOUNT_EXISTS", Status: http.StatusConflict, Message: "there is such an account"}
	ErrAccountInvalid  = &registry.Error{Code: "ACCOUNT_INVALID", Status: http.StatusBadRequest, Message: "invalid account"}
	ErrPasswordInvalid = &registry.Error{Code: "PASSWORD_INVALID", Status: http.StatusBadRequest, Message: "invalid password"}
	ErrPasswordWrong   = &registry.Error{Code: "PASSWORD_WRONG", Status: http.StatusForbidden, Message: "the old password is wrong"}
	ErrTokenUnknown    = &registry.Error{Code: "TOKEN_UNKNOWN", Status: http.StatusNotFound, Message: "no such API key"}
	ErrTokenInvalid    = &registry.Error{Code: "TOKEN_INVALID", Status: http.StatusBadRequest, Message: "invalid API key"}
	ErrTooManyTokens   = &registry.Error{Code: "TOKEN_INVALID", Status: http.StatusConflict, Message: "the account has too many API keys; revoke some"}
	ErrNodeUnknown     = &registry.Error{Code: "NODE_UNKNOWN", Status: http.StatusNotFound, Message: "no such node"}
	ErrNodeNewer       = &registry.Error{Code: "NODE_CONFLICT", Status: http.StatusConflict, Message: "a newer report of that node came at the same time"}
	ErrRolloutUnknown  = &registry.Error{Code: "ROLLOUT_UNKNOWN", Status: http.StatusNotFound, Message: "no node follows this tag"}
	ErrRolloutState    = &registry.Error{Code: "ROLLOUT_STATE", Status: http.StatusConflict, Message: "the rollout is not in that state"}
	ErrNoTokens        = &registry.Error{Code: "UNSUPPORTED", Status: http.StatusNotImplemented, Message: "the registry signs no tokens"}
)

// known lists all errors that a client can get.
var known = []*registry.Error{
	ErrRequestInvalid, ErrRequestTooLarge, ErrRequestSlow, ErrMediaType, ErrAccountUnknown, ErrAccountExists, ErrAccountInvalid,
	ErrPasswordInvalid, ErrPasswordWrong, ErrTokenUnknown, ErrTokenInvalid, ErrTooManyTokens, ErrNoTokens, ErrNodeUnknown, ErrNodeNewer,
	registry.ErrUnauthorized, registry.ErrDenied, registry.ErrRouteUnknown, registry.ErrMethod, registry.ErrUnavailable,
	registry.ErrTooMany, registry.ErrNameUnknown, ErrMirrorUnknown, ErrMirrorRuns, ErrMirror, ErrBackup, ErrMigrate, registry.ErrNoSpace,
	ErrReplicationUnknown, ErrReplication, ErrRolloutUnknown, ErrRolloutState, registry.ErrTagImmutable, registry.ErrManifestUnknown,
}

// classify makes a *registry.Error of one of the store. Any other is a failure
// whose text is not for a client, and is returned as it is.
func classify(err error) error {
	kind := (*registry.Error)(nil)
	if told := nodeError(err); told != nil {
		return told
	}
	if told := rolloutError(err); told != nil {
		return told
	}
	switch {
	case errors.As(err, &kind):
		return err
	case errors.Is(err, auth.ErrUnknown):
		return ErrAccountUnknown
	case errors.Is(err, accounts.ErrExists):
		return ErrAccountExists
	case errors.Is(err, accounts.ErrName):
		return ErrAccountInvalid.With("%v", err)
	case errors.Is(err, accounts.ErrPassword):
		return ErrPasswordInvalid.With("%v", err)
	case errors.Is(err, accounts.ErrKey):
		return ErrTokenInvalid.With("%v", err)
	case errors.Is(err, storage.ErrReadOnly):
		return registry.ErrReadOnly
	case errors.Is(err, storage.ErrNoSpace):
		return registry.ErrNoSpace.With("the registry's disk is full")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return registry.ErrUnavailable.With("the request was given up")
	default:
		return err
	}
}
