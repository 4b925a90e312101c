package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/distribution/reference"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berth-registry/berth/runner"
)

const (
	maxErrorBody = 64 << 10

	codeDenied          = errcode.ErrorCodeDenied
	codeUnauthorized    = errcode.ErrorCodeUnauthorized
	codeManifestUnknown = errcode.ErrorCodeManifestUnknown
	codeNameUnknown     = errcode.ErrorCodeNameUnknown
)

// responseError is a response that says that a request failed.
type responseError struct {
	status int
	errs   []errcode.Error // what the body says
	after  time.Duration   // that the server wants to be left alone
}

// newResponseError reads what a response says about a failure.
func newResponseError(resp *http.Response) *responseError {
	e := &responseError{status: resp.StatusCode, after: retryAfter(resp.Header)}
	var body struct {
		Errors  []errcode.Error `json:"errors"`
		Details string          `json:"details"` // of Docker Hub's token service
	}
	// A body that cannot be read or is no JSON says nothing.
	if data, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)); err == nil && json.Unmarshal(data, &body) == nil {
		e.errs = body.Errors
	}
	if len(e.errs) == 0 && body.Details != "" && resp.StatusCode == http.StatusUnauthorized {
		e.errs = []errcode.Error{{Code: codeUnauthorized, Message: body.Details}}
	}
	e.complete(resp.Header)
	return e
}

// complete says what the status alone tells. A token that does not reach as far
// as it should means that access was denied, whatever the body says.
func (e *responseError) complete(h http.Header) {
	denied := errcode.Error{Code: codeDenied, Message: "requested access to the resource is denied"}
	switch {
	case e.status == http.StatusUnauthorized && strings.Contains(h.Get("WWW-Authenticate"), `error="insufficient_scope"`):
		e.errs = []errcode.Error{denied}
	case len(e.errs) > 0:
	case e.status == http.StatusUnauthorized:
		e.errs = []errcode.Error{{Code: codeUnauthorized, Message: "authentication required"}}
	case e.status == http.StatusForbidden:
		e.errs = []errcode.Error{denied}
	case e.status == http.StatusTooManyRequests:
		e.errs = []errcode.Error{{Code: "TOOMANYREQUESTS", Message: "the registry asks to try again later"}}
	}
}

// Error is worded as Docker's.
func (e *responseError) Error() string {
	if len(e.errs) == 0 {
		return fmt.Sprintf("received unexpected HTTP status: %d %s", e.status, http.StatusText(e.status))
	}
	var lines []string
	for _, err := range e.errs {
		code := strings.ToLower(strings.ReplaceAll(err.Code, "_", " "))
		text := code
		if err.Message != "" {
			text = code + ": " + err.Message
		}
		lines = append(lines, printable(text))
	}
	if len(lines) == 1 {
		return lines[0]
	}
	return "errors:\n" + strings.Join(lines, "\n") + "\n"
}

func (e *responseError) code() string {
	if len(e.errs) == 0 {
		return ""
	}
	return e.errs[0].Code
}

// isStatus says whether an error is a response of a status.
func isStatus(err error, status int) bool {
	var resp *responseError
	return errors.As(err, &resp) && resp.status == status
}

// printable clips what a registry said and drops what would command a terminal.
func printable(s string) string {
	const most = 1024
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// errNoBasic is what Docker says without credentials.
var errNoBasic = errors.New("no basic auth credentials")

// plainError words what auth.Client and net/http return as Docker does, and
// leaves queries out of URLs: they may hold signatures.
func plainError(req *http.Request, err error) error {
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return &url.Error{Op: req.Method[:1] + strings.ToLower(req.Method[1:]), URL: req.URL.String(), Err: errNoBasic}
	}
	if token, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		e := &responseError{status: token.StatusCode, errs: token.Errors}
		e.complete(http.Header{})
		return e
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		if u, perr := url.Parse(ue.URL); perr == nil && u.RawQuery != "" {
			u.RawQuery = ""
			return &url.Error{Op: ue.Op, URL: u.String(), Err: ue.Err}
		}
	}
	return err
}

// classify gives an error its kind.
func classify(err error) error {
	var resp *responseError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, errNoBasic):
		return runner.Errorf(runner.ErrUnauthorized, "%w", err)
	case !errors.As(err, &resp):
		return err
	}
	kinds := map[int]error{
		http.StatusBadRequest:         runner.ErrInvalid,
		http.StatusUnauthorized:       runner.ErrUnauthorized,
		http.StatusForbidden:          runner.ErrForbidden,
		http.StatusNotFound:           runner.ErrNotFound,
		http.StatusTooManyRequests:    runner.ErrUnavailable,
		http.StatusServiceUnavailable: runner.ErrUnavailable,
	}
	if kind, ok := kinds[resp.status]; ok {
		return runner.Errorf(kind, "%w", err)
	}
	return err
}

// pullError words why an image cannot be had as Docker does.
func pullError(ref reference.Named, err error) error {
	var resp *responseError
	if !errors.As(err, &resp) {
		return classify(err)
	}
	name := reference.FamiliarName(ref)
	switch code := resp.code(); {
	case code == codeDenied:
		return runner.Errorf(runner.ErrNotFound, "pull access denied for %s, repository does not exist or may require 'docker login': %w", name, err)
	case code == codeNameUnknown:
		return runner.Errorf(runner.ErrNotFound, "repository %s not found: %w", name, err)
	case code == codeManifestUnknown:
		return runner.Errorf(runner.ErrNotFound, "manifest for %s not found: %w", reference.FamiliarString(ref), err)
	case code == "" && resp.status == http.StatusNotFound:
		return runner.Errorf(runner.ErrNotFound, "manifest for %s not found: manifest unknown: %w", reference.FamiliarString(ref), err)
	}
	return classify(err)
}
