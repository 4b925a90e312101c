package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/berth-registry/berth/deploy"
)

// serve answers a request that Caddy has read.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) error {
	p.requests.Add(1)
	defer p.requests.Add(-1)
	defer p.bound(w, r)
	header := w.Header()
	header.Del("Server")
	if p.retired.Load() && r.ProtoMajor == 1 {
		header.Set("Connection", "close")
	}
	if p.certs.challenge(w, r) {
		return nil
	}
	host, path := hostOf(r.Host), r.URL.Path
	e, prefix := p.table.Load().find(host, path)
	switch {
	case r.Method == http.MethodConnect:
		answer(w, r, http.StatusMethodNotAllowed, "this is no proxy to elsewhere")
		return nil
	case !strings.HasPrefix(path, "/"):
		answer(w, r, http.StatusBadRequest, "the request has no path")
		return nil
	case e == nil:
		answer(w, r, http.StatusNotFound, "nothing is served here under this name")
		return nil
	case e.TLS == deploy.TLSOff && r.TLS != nil:
		answer(w, r, http.StatusMisdirectedRequest, "this is not served over HTTPS")
		return nil
	case e.TLS != deploy.TLSOff && !secure(r) && p.o.HTTPS == "":
		answer(w, r, http.StatusMisdirectedRequest, "this is served over HTTPS alone, and there is none here")
		return nil
	case e.TLS != deploy.TLSOff && !secure(r):
		p.redirect(w, r)
		return nil
	}
	a := &attempt{host: host, path: path, prefix: prefix, route: e.route, tried: map[*replica]bool{}}
	defer a.release()
	r = r.WithContext(context.WithValue(r.Context(), attemptKey{}, a))
	a.watch(r)
	letBeQuiet(r)
	forwarded(r)
	if e.StripTo {
		strip(r, prefix)
	}
	defer logged(r, a)
	begin, answered := time.Now(), &writer{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	defer func() { e.stats.count(answered.status, time.Since(begin)) }() // an answer that breaks off is a panic
	if err := e.handler.ServeHTTP(answered, r); err != nil {
		p.failure(answered, r, e, err)
	}
	return nil
}

// bound bounds what is written of an answer after its handler has ended, as Caddy bounds
// what the handler writes. Over HTTP/1 Caddy leaves the connection with the time for what
// was written last: the end of a stream that was quiet before it would be lost.
func (p *Proxy) bound(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(p.limits.stall)) // each connection has it
	}
}

// logged adds to the access log who has served a request.
func logged(r *http.Request, a *attempt) {
	fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return
	}
	fields.Add(zap.String("owner", a.route.owner))
	fields.Add(zap.String("service", a.route.service))
	if a.now != nil {
		fields.Add(zap.String("container", a.now.id))
	}
}

// redirect sends a client to HTTPS.
func (p *Proxy) redirect(w http.ResponseWriter, r *http.Request) {
	host := hostOf(r.Host)
	if p.httpsPort != "443" {
		host = net.JoinHostPort(host, p.httpsPort)
	}
	header := w.Header()
	header.Set("Location", "https://"+host+r.URL.RequestURI())
	header.Set("Connection", "close") // the next request is elsewhere
	w.WriteHeader(http.StatusPermanentRedirect)
}

// clientGone is how Caddy says that a client has gone, or has stalled for too long.
const clientGone = 499

// writer remembers the status of an answer. It ends the connection of a client that has
// stalled, for whose rest Caddy would wait.
type writer struct {
	*caddyhttp.ResponseWriterWrapper

	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(status int) {
	if status == clientGone {
		status = http.StatusRequestTimeout
	}
	if status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close")
	}
	w.status = status
	w.ResponseWriterWrapper.WriteHeader(status)
}

// failure answers a request that no replica has answered.
func (p *Proxy) failure(w http.ResponseWriter, r *http.Request, e *entry, err error) {
	status := http.StatusBadGateway
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode >= http.StatusBadRequest {
		status = he.StatusCode
	}
	var dial reverseproxy.DialError
	if status == http.StatusGatewayTimeout && !errors.As(err, &dial) {
		status = http.StatusRequestTimeout // replicas have all the time: it is the client who stalled
	}
	if a := attemptOf(r.Context()); status == http.StatusBadGateway && a.broken.Load() {
		status = http.StatusBadRequest
	}
	text := ""
	switch status {
	case clientGone:
		w.WriteHeader(clientGone)
		return
	case http.StatusBadRequest:
		text = "the body of the request cannot be read"
	case http.StatusRequestEntityTooLarge:
		text = fmt.Sprintf("the request has more than %d bytes", e.MaxBody)
	case http.StatusServiceUnavailable:
		text = "no replica of the service is there"
	case http.StatusRequestTimeout:
		text = "the request did not come to its end"
	case http.StatusBadGateway:
		text = "no replica of the service answers"
	case http.StatusGatewayTimeout:
		text = "the service did not take the connection in time"
	}
	if status >= http.StatusInternalServerError {
		p.log.WarnContext(r.Context(), "request failed", "owner", e.owner, "service", e.service, "host", r.Host,
			"method", r.Method, "status", status, "error", err)
	}
	header := w.Header()
	header.Del("Set-Cookie")
	answer(w, r, status, text)
}

// answer writes an answer of the edge itself.
func answer(w http.ResponseWriter, r *http.Request, status int, text string) {
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	if status == http.StatusServiceUnavailable {
		header.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	line := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if text != "" {
		line += ": " + text
	}
	_, _ = w.Write([]byte(strings.TrimSpace(line) + "\n")) // the client may be gone
}
