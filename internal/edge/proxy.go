package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
)

// headerTime is how long a trusted proxy may take for its PROXY header.
const headerTime = 5 * time.Second

// proxied wraps a listener such that a connection from a trusted proxy must begin
// with a PROXY header, and has the address of the client it tells of. Others pass
// through as they are.
//
// The specification (haproxy.org, proxy-protocol.txt, section 2) wants both sides
// to know whether there is a header, and never to guess: here the address of the
// peer says so.
func (e *Edge) proxied(l net.Listener) net.Listener {
	return &proxyproto.Listener{
		Listener:          l,
		ReadHeaderTimeout: headerTime,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if a, ok := o.Upstream.(*net.TCPAddr); ok && e.trusts(a.AddrPort().Addr().Unmap()) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
		ValidateHeader: func(h *proxyproto.Header) error {
			switch h.SourceAddr.(type) {
			case nil, *net.TCPAddr:
				return nil
			}
			return fmt.Errorf("a PROXY header for %T, which is no address of TCP", h.SourceAddr)
		},
	}
}

// trusts says whether addr, unmapped, is a trusted proxy's.
func (e *Edge) trusts(addr netip.Addr) bool {
	for _, p := range e.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// unmapped is a range of IPv4 addresses as such, also if it is written as one of
// IPv6 (::ffff:10.0.0.0/104).
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
	}
	return p.Masked()
}

type (
	edgeKey struct{} // the Edge, in the contexts of its servers
	connKey struct{} // the *proxyproto.Conn, in the contexts of those that have one
)

// setContexts puts into the contexts of a server's requests what Handler and Base
// need to know, once for all requests of a listener or a connection.
func (e *Edge) setContexts(s *http.Server) {
	base := s.BaseContext
	s.BaseContext = func(l net.Listener) context.Context {
		ctx := context.Background()
		if base != nil {
			ctx = base(l)
		}
		return context.WithValue(ctx, edgeKey{}, e)
	}
	if !e.o.ProxyProtocol {
		return
	}
	connContext := s.ConnContext
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if connContext != nil {
			ctx = connContext(ctx, c)
		}
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
		}
		if p, ok := c.(*proxyproto.Conn); ok {
			ctx = context.WithValue(ctx, connKey{}, p)
		}
		return ctx
	}
}

// hidden says that a PROXY header tells of no client: the proxy speaks for itself,
// to see whether the registry lives (LOCAL), or does not know the client's address
// (UNKNOWN). The connection has the address of a trusted proxy then, and yet the
// headers of its requests may be anybody's.
func hidden(ctx context.Context) bool {
	c, ok := ctx.Value(connKey{}).(*proxyproto.Conn)
	if !ok {
		return false
	}
	h := c.ProxyHeader() // was read before the request
	return h != nil && (h.Command.IsLocal() || h.SourceAddr == nil)
}
