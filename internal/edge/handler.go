package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// outsideKey is what a request looked like before the proxies, told, in its
// context.
type outsideKey struct{}

// Handler gives next the requests as clients sent them: RemoteAddr is the address
// of the client, as trusted proxies tell it, with port 0 if they do not tell that;
// Base knows where the client found the registry. The headers by which proxies
// tell of clients are removed, whoever sent them. Without trusted proxies it
// allocates nothing for a request of HTTP/1. A stream of HTTP/2 whose client takes
// nothing for Options.Patience is reset.
//
// A trusted proxy must set X-Forwarded-For, or remove what the client sent by that
// name: Forwarded and X-Real-IP are believed only where it is missing.
func (e *Edge) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(edgeKey{}) != e { // of a server that is not configured
			r = r.WithContext(context.WithValue(r.Context(), edgeKey{}, e))
		}
		if len(e.trusted) > 0 {
			r = e.believe(r)
		}
		for name := range r.Header {
			if isForwarding(name) {
				delete(r.Header, name)
			}
		}
		if r.ProtoMajor == 2 && e.o.Patience > 0 {
			e.patiently(next, w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isForwarding says whether a header tells of a proxy's client.
func isForwarding(name string) bool {
	return strings.HasPrefix(name, forwardedPrefix) || name == headerForwarded || name == headerRealIP
}

// believe returns the request as its proxy tells of it, if that is trusted.
func (e *Edge) believe(r *http.Request) *http.Request {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !e.trusts(plain(peer.Addr())) || hidden(r.Context()) {
		return r
	}
	t := hear(r.Header, e.trusts)
	if t.scheme != "" || t.host != "" {
		r = r.WithContext(context.WithValue(r.Context(), outsideKey{}, t))
	}
	if t.client.IsValid() {
		r.RemoteAddr = t.client.String()
	}
	return r
}

// Base returns the external base URL of a request behind Handler, scheme://host:
// the public URL, or what a trusted proxy tells, or what the client asked for. A
// Host that is none gives the address that the client has reached.
func Base(r *http.Request) string {
	ctx := r.Context()
	if e, ok := ctx.Value(edgeKey{}).(*Edge); ok && e.public != "" {
		return e.public
	}
	t, _ := ctx.Value(outsideKey{}).(told)
	if t.scheme == "" {
		t.scheme = schemeHTTP
		if r.TLS != nil {
			t.scheme = schemeHTTPS
		}
	}
	switch {
	case t.host != "":
	case validHost(r.Host):
		t.host = r.Host
	default:
		t.host = localHost(ctx)
	}
	return t.scheme + "://" + t.host
}

// localHost is the address of the server's side of a request's connection.
func localHost(ctx context.Context) string {
	if a, ok := ctx.Value(http.LocalAddrContextKey).(net.Addr); ok && validHost(a.String()) {
		return a.String()
	}
	return "localhost"
}

// validHost says whether s is a host with or without a port: a name of letters,
// digits, '-', '.' and '_', or an address, as RFC 3986, section 3.2.2, allows and
// more narrowly. What passes cannot be anything else in a URL or a header.
func validHost(s string) bool {
	host, port, ok := cutPort(s)
	if !ok || len(host) > 253 {
		return false
	}
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || len(port) > 5 {
			return false
		}
	}
	if bare, ok := strings.CutPrefix(host, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(bare, "]"))
		return err == nil && a.Is6() && a.Zone() == ""
	}
	for i := range len(host) {
		if !isLetterOrDigit(host[i]) && strings.IndexByte("-._", host[i]) < 0 {
			return false
		}
	}
	return host != "" && host[0] != '.' && host[0] != '-'
}

func isLetterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// cutPort splits a host, with its brackets if it has any, from its port, empty if
// it has none.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.IndexByte(s, ':')
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false
		}
		if i = end + 1; i == len(s) {
			i = -1
		} else if s[i] != ':' {
			return "", "", false
		}
	}
	if i < 0 {
		return s, "", true
	}
	return s[:i], s[i+1:], s[i+1:] != ""
}

// publicBase checks a public URL and returns it as Base does.
func publicBase(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("the public URL cannot be read: %w", errors.Unwrap(err))
	}
	switch {
	case u.Scheme != schemeHTTP && u.Scheme != schemeHTTPS:
		return "", errors.New("the public URL must begin with https:// or http://")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return "", errors.New("the public URL must be a scheme and a host only")
	case u.Path != "" && u.Path != "/":
		return "", errors.New("the public URL must not have a path: clients look for a registry at /v2/ of its host")
	case !validHost(u.Host):
		return "", errors.New("the public URL has no valid host")
	}
	return u.Scheme + "://" + u.Host, nil
}

// schemeOf is the scheme of a URL that publicBase has returned.
func schemeOf(base string) string {
	scheme, _, _ := strings.Cut(base, ":")
	return scheme
}
