package proxy

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// transport sends requests to replicas, and remembers which did not answer.
type transport struct {
	*reverseproxy.HTTPTransport

	grpc *reverseproxy.HTTPTransport // HTTP/2 without TLS
}

const (
	// dialPatience is above the second after which a full queue of connections is
	// tried again.
	dialPatience = 2 * time.Second
	// idle is how long a connection to a replica is kept without a request. It is
	// shorter than servers keep theirs: one that they close while a request is on its
	// way is a request that fails.
	idle = time.Second
)

var errNoAttempt = errors.New("a request that the proxy has not chosen a replica for")

func newTransport(ctx caddy.Context) (*transport, error) {
	provision := func(version string) (*reverseproxy.HTTPTransport, error) {
		no := false
		t := &reverseproxy.HTTPTransport{
			DialTimeout: caddy.Duration(dialPatience),
			Compression: &no, // what the client takes is asked for
			KeepAlive:   &reverseproxy.KeepAlive{IdleConnTimeout: caddy.Duration(idle), MaxIdleConnsPerHost: 100},
			Versions:    []string{version},
		}
		if err := t.Provision(ctx); err != nil {
			return nil, err
		}
		t.Transport.Proxy = nil // replicas are on this host
		return t, nil
	}
	usual, err := provision("1.1")
	if err != nil {
		return nil, err
	}
	grpc, err := provision("h2c")
	return &transport{usual, grpc}, err
}

// isGRPC says whether a request is a call of gRPC, which replicas take over HTTP/2 alone.
// What browsers send, application/grpc-web, is as other requests are.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.ProtoMajor == 2 && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	a := attemptOf(r.Context())
	if a == nil || a.now == nil {
		return nil, errNoAttempt
	}
	a.release()
	by := t.HTTPTransport
	if isGRPC(r) {
		by = t.grpc
	}
	resp, err := by.RoundTrip(r)
	if err == nil {
		a.now.answered()
		return resp, nil
	}
	if r.Context().Err() != nil {
		return nil, err // the client has gone
	}
	a.tried[a.now] = true
	var dial reverseproxy.DialError
	switch {
	case errors.As(err, &dial):
		a.now.failed()
	case r.ContentLength == 0: // otherwise it may be the client who stopped
		a.now.failed()
		a.unsure++
	default:
		a.unsure++
	}
	return nil, err
}
