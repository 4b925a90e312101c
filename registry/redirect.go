package registry

import (
	"context"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// Redirector is what a reader of a blob is, too, if its content can be had from
// elsewhere.
type Redirector interface {
	// RedirectURL is a URL from which a client gets the content without further
	// rights, for a while; empty if there is none now.
	RedirectURL(ctx context.Context) (string, error)
}

// redirectHeader is the header of a request by which a client that cannot reach what
// it would be redirected to has the content from here: with the value "no".
const redirectHeader = "Berth-Redirect"

// redirect answers with where a blob is to be had, if its reader says so and the
// client does not refuse. Whether the client wants a part of it, it says there.
func (x *exchange) redirect(f io.Reader, d digest.Digest) (bool, error) {
	r, ok := f.(Redirector)
	if !ok || x.r.Header.Get(redirectHeader) == "no" {
		return false, nil
	}
	if x.notModified(d) {
		return true, nil
	}
	url, err := r.RedirectURL(x.ctx())
	if err != nil || url == "" {
		return false, err
	}
	h := x.w.Header()
	delete(h, "Etag") // this is not the content
	h["Location"] = []string{url}
	h["Cache-Control"] = []string{"no-store"} // the URL ends, and is the client's own
	h["Content-Length"] = []string{"0"}
	x.w.WriteHeader(http.StatusTemporaryRedirect)
	return true, nil
}
