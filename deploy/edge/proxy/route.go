package proxy

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/encode"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/requestbody"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/berth-registry/berth/deploy"
)

// route is how the requests of a route are handled, whoever answers.
type route struct {
	deploy.Route

	key     string
	owner   string
	service string
	handler caddyhttp.Handler
	turn    atomic.Uint64
	cancel  func() // lets go of what Caddy has for it
}

// tryFor is how long a request that no replica takes is kept, unless its route says
// otherwise: long enough for a container to be restarted.
const tryFor = 5 * time.Second

// keyOf tells routes that are handled differently apart.
func keyOf(owner string, r deploy.EdgeRoute) string {
	text, err := json.Marshal(struct {
		Owner, Service string
		Route          deploy.Route
	}{owner, r.Service, r.Route})
	if err != nil {
		return "" // of what is made of texts and numbers there is always JSON
	}
	return string(text)
}

// newRoute makes the handlers of a route, within Caddy's context.
func (p *Proxy) newRoute(owner string, r deploy.EdgeRoute) (*route, error) {
	ctx, cancel := caddy.NewContext(p.ctx)
	made := &route{Route: r.Route, key: keyOf(owner, r), owner: owner, service: r.Service, cancel: cancel}
	back, err := p.newBackend(ctx, r.Route)
	if err != nil {
		cancel()
		return nil, err
	}
	made.handler = caddyhttp.HandlerFunc(func(w http.ResponseWriter, req *http.Request) error {
		return back.ServeHTTP(w, req, caddyhttp.HandlerFunc(nothing))
	})
	if r.Compress {
		enc := &encode.Encode{EncodingsRaw: caddy.ModuleMap{"gzip": json.RawMessage("{}"), "zstd": json.RawMessage("{}")}}
		if err := enc.Provision(ctx); err != nil {
			cancel()
			return nil, err
		}
		made.handler = with(enc, made.handler)
	}
	if r.MaxBody > 0 {
		made.handler = with(requestbody.RequestBody{MaxSize: r.MaxBody}, made.handler)
	}
	return made, nil
}

func (p *Proxy) newBackend(ctx caddy.Context, r deploy.Route) (*reverseproxy.Handler, error) {
	patience := r.TryFor
	if patience == 0 {
		patience = tryFor
	}
	h := &reverseproxy.Handler{
		Transport:     p.transport,
		LoadBalancing: &reverseproxy.LoadBalancing{SelectionPolicy: selector{p}, TryDuration: caddy.Duration(patience)},
	}
	if err := h.Provision(ctx); err != nil {
		return nil, err
	}
	h.LoadBalancing.TryInterval = 0 // the selector waits, and only if nobody is left
	h.LoadBalancing.RetryMatch = caddyhttp.MatcherSets{{repeatable{}}}
	return h, nil
}

func nothing(http.ResponseWriter, *http.Request) error { return nil }

// with puts a middleware in front of a handler.
func with(m caddyhttp.MiddlewareHandler, next caddyhttp.Handler) caddyhttp.Handler {
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return m.ServeHTTP(w, r, next) })
}

// strip takes a prefix away from the path of a request, and tells the service.
func strip(r *http.Request, prefix string) {
	if prefix == "" {
		return
	}
	u := *r.URL
	u.Path = "/" + strings.TrimPrefix(strings.TrimPrefix(u.Path, prefix), "/")
	if u.RawPath != "" {
		// The prefix has nothing to be escaped, so that in most cases it stands there.
		rest, ok := strings.CutPrefix(u.RawPath, prefix)
		u.RawPath = "/" + strings.TrimPrefix(rest, "/")
		if path, err := url.PathUnescape(u.RawPath); !ok || err != nil || path != u.Path {
			u.RawPath = ""
		}
	}
	r.URL = &u
	r.Header.Set(forwardedPrefix, r.Header.Get(forwardedPrefix)+prefix)
}
