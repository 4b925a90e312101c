package remote

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"github.com/berth-registry/berth/registry"
)

// known are the errors of the protocol. Of those that share a code, the first
// is what the code means with a status that none of them has; of those that
// share the status too, the first is what they are taken for.
var known = []*registry.Error{
	registry.ErrBlobUnknown, registry.ErrUploadInvalid, registry.ErrUploadUnknown,
	registry.ErrRangeInvalid, registry.ErrDigestInvalid, registry.ErrManifestBlobUnknown,
	registry.ErrManifestInvalid, registry.ErrManifestTooLarge, registry.ErrManifestUnknown,
	registry.ErrNameInvalid, registry.ErrNameUnknown, registry.ErrTagInvalid,
	registry.ErrPageInvalid, registry.ErrSizeInvalid, registry.ErrDenied, registry.ErrReferenced,
	registry.ErrMethod, registry.ErrRouteUnknown, registry.ErrRangeUnsatisfiable,
	registry.ErrUnavailable, registry.ErrNoSpace, registry.ErrTimeout,
}

// byStatus is what a status means whose body has no code that is known.
var byStatus = map[int]*registry.Error{
	http.StatusUnauthorized:                 registry.ErrDenied,
	http.StatusForbidden:                    registry.ErrDenied,
	http.StatusNotFound:                     registry.ErrRouteUnknown,
	http.StatusMethodNotAllowed:             registry.ErrMethod,
	http.StatusRequestTimeout:               registry.ErrTimeout,
	http.StatusRequestedRangeNotSatisfiable: registry.ErrRangeInvalid,
	http.StatusTooManyRequests:              registry.ErrUnavailable,
	http.StatusServiceUnavailable:           registry.ErrUnavailable,
	http.StatusInsufficientStorage:          registry.ErrNoSpace,
}

// errorOf makes an error of a response (specification, "Error Codes"). missing
// is what a 404 means whose code says no more than that something is not there.
func errorOf(resp *http.Response, missing *registry.Error) error {
	code, text := errorBody(resp.Body)
	kind := kindOf(resp.StatusCode, code, missing)
	if text == "" && resp.StatusCode == http.StatusUnauthorized {
		text = "authentication required"
	}
	switch {
	case kind == nil:
		if text == "" {
			text = "no reason given"
		}
		return fmt.Errorf("registry %s answered %d %s: %s", resp.Request.URL.Host,
			resp.StatusCode, http.StatusText(resp.StatusCode), text)
	case text == "":
		return kind
	default:
		return kind.With("%s", text)
	}
}

func kindOf(status int, code string, missing *registry.Error) *registry.Error {
	var byCode *registry.Error
	for _, e := range known {
		if e.Code != code {
			continue
		}
		if byCode == nil {
			byCode = e
		}
		if e.Status == status {
			byCode = e
			break
		}
	}
	vague := byCode == nil || byCode == registry.ErrNameUnknown
	switch {
	case status == http.StatusNotFound && vague && missing != nil:
		return missing
	case byCode != nil:
		return byCode
	default:
		return byStatus[status]
	}
}

// ErrorText is what the body of an error says to the user, fit to be printed and
// at most a kilobyte or so; empty if it says nothing in the protocol's way. It
// reads no more of the body than an error may have.
func ErrorText(body io.Reader) string {
	_, text := errorBody(body)
	return text
}

// errorBody returns the first error's code and what it says to the user.
func errorBody(r io.Reader) (code, text string) {
	var body struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Detail  any    `json:"detail"`
		} `json:"errors"`
	}
	data, err := io.ReadAll(io.LimitReader(r, maxErrorBody))
	if err != nil || json.Unmarshal(data, &body) != nil || len(body.Errors) == 0 {
		return "", ""
	}
	e := body.Errors[0]
	text = e.Message
	if detail, ok := e.Detail.(string); ok && detail != "" && detail != text {
		text += ": " + detail
	}
	return e.Code, printable(text)
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
