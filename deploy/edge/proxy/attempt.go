package proxy

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// attempt is what is tried for one request.
type attempt struct {
	host, path string // as they were asked for
	prefix     string // of the path, by which the route was found
	route      *route
	tried      map[*replica]bool
	held       *pool       // that a replica is being chosen of
	now        *replica    // that it is sent to
	unsure     int         // times that a replica took it, and did not answer
	broken     atomic.Bool // the client's body could not be read to its end
}

// watch has the attempt know of a body that cannot be read: that is no replica's fault.
func (a *attempt) watch(r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &body{r.Body, a}
	}
}

// body is that of a request.
type body struct {
	io.ReadCloser

	attempt *attempt
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.attempt.broken.Store(true)
	}
	return n, err
}

// release says that the replica that was chosen has the request: it counts.
func (a *attempt) release() {
	if a.held != nil {
		a.held.holds.Add(-1)
		a.held = nil
	}
}

type attemptKey struct{}

// attemptOf is the attempt of a request that serve has made; nil of none.
func attemptOf(ctx context.Context) *attempt {
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	return a
}

// selector chooses the replica of each attempt. It implements reverseproxy.Selector.
type selector struct{ proxy *Proxy }

// pause is how long a request waits that no replica is left for.
const pause = 100 * time.Millisecond

// Select implements reverseproxy.Selector. The pool that it is given is empty: those
// who answer are the proxy's.
func (s selector) Select(_ reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	a := attemptOf(r.Context())
	if a == nil {
		return nil
	}
	mark := ""
	if a.route.Sticky != "" {
		if c, err := r.Cookie(a.route.Sticky); err == nil {
			mark = c.Value
		}
	}
	chosen := s.proxy.hold(a).choose(mark, a.tried)
	if chosen == nil {
		a.release()
		clear(a.tried)
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
		}
		if chosen = s.proxy.hold(a).choose(mark, nil); chosen == nil {
			a.release()
			return nil
		}
	}
	a.now = chosen
	if a.route.Sticky != "" && chosen.mark != mark {
		stick(w, r, a, chosen.mark)
	}
	return chosen.upstream
}

// stick makes a client stay with a replica, in place of one that was tried before. The
// cookie is the route's alone: another one of the host may have one of the same name.
func stick(w http.ResponseWriter, r *http.Request, a *attempt, mark string) {
	path := a.prefix
	if path == "" {
		path = "/"
	}
	w.Header().Del("Set-Cookie") // only ours can be there before an answer is
	//nolint:gosec // over HTTP a secure cookie would not come back
	http.SetCookie(w, &http.Cookie{
		Name: a.route.Sticky, Value: mark, Path: path, HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteLaxMode,
	})
}

// repeatable matches requests that are repeated although a replica may have seen them.
type repeatable struct{}

// MatchWithError implements caddyhttp.RequestMatcherWithError.
func (repeatable) MatchWithError(r *http.Request) (bool, error) {
	a := attemptOf(r.Context())
	return a != nil && a.unsure <= a.route.Retries && safe(r), nil
}

var _ caddyhttp.RequestMatcherWithError = repeatable{}

// safe says whether a request changes nothing (RFC 9110, section 9.2.1), and has no
// body that would be gone.
func safe(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return r.ContentLength == 0 && r.Header.Get("Upgrade") == ""
	}
	return false
}
