package edge

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// The schemes that there can be.
const (
	schemeHTTP  = "http"
	schemeHTTPS = "https"
)

// The headers by which proxies tell of their client, as net/http spells them.
const (
	headerFor       = "X-Forwarded-For"
	headerHost      = "X-Forwarded-Host"
	headerProto     = "X-Forwarded-Proto"
	headerForwarded = "Forwarded" // RFC 7239
	headerRealIP    = "X-Real-Ip"

	forwardedPrefix = "X-Forwarded-"
)

// told is what trusted proxies tell of a request. What they do not tell, or what
// makes no sense, is the zero value.
type told struct {
	client netip.AddrPort // port 0 if that is not told
	scheme string
	host   string
}

// hear reads what trusted proxies tell in a request's headers, from the right,
// where the nearest has written, to the first address that is not trusted: what is
// left of that the client may have made up itself.
//
// X-Forwarded-* beats Forwarded, and that X-Real-IP. They are not mixed: a proxy
// that writes one kind passes the other on as the client has sent it.
func hear(h http.Header, trusts func(netip.Addr) bool) (t told) {
	if len(h[headerFor])+len(h[headerProto])+len(h[headerHost]) > 0 {
		hops := 0
		for v := range fromRight(h[headerFor]) {
			if !t.see(v) || !trusts(t.client.Addr()) {
				break
			}
			hops++
		}
		t.setScheme(fromEnd(h[headerProto], hops))
		t.setHost(fromEnd(h[headerHost], hops))
	} else {
		for _, line := range slices.Backward(h[headerForwarded]) {
			if !t.hearElements(line, trusts) {
				break
			}
		}
	}
	if !t.client.IsValid() && len(h[headerFor])+len(h[headerForwarded]) == 0 {
		if v := h[headerRealIP]; len(v) == 1 {
			t.see(v[0])
		}
	}
	return t
}

// hearElements reads a Forwarded header, and says whether to go on to one on its
// left.
func (t *told) hearElements(line string, trusts func(netip.Addr) bool) bool {
	elements, ok := parseForwarded(line)
	if !ok {
		return false
	}
	for _, e := range slices.Backward(elements) {
		t.setScheme(e.proto)
		t.setHost(e.host)
		if !t.see(e.node) || !trusts(t.client.Addr()) {
			return false
		}
	}
	return true
}

// see takes the address of a hop. If it is not one, the last one that was stays:
// that of the proxy which did not know better.
func (t *told) see(node string) bool {
	a, ok := parseNode(node)
	if ok {
		t.client = a
	}
	return ok
}

func (t *told) setScheme(s string) {
	switch {
	case strings.EqualFold(s, schemeHTTPS):
		t.scheme = schemeHTTPS
	case strings.EqualFold(s, schemeHTTP):
		t.scheme = schemeHTTP
	}
}

func (t *told) setHost(s string) {
	if validHost(s) {
		t.host = s
	}
}

// fromRight are the members of comma-separated lists, the last one first.
func fromRight(lists []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, rest := range slices.Backward(lists) {
			for more := true; more; {
				i := strings.LastIndexByte(rest, ',')
				v := strings.TrimSpace(rest[i+1:])
				if more = i >= 0; more {
					rest = rest[:i]
				}
				if !yield(v) {
					return
				}
			}
		}
	}
}

// fromEnd is the member of lists that is n from the end, or the first: a header
// that proxies replace has fewer members than one that they add to.
func fromEnd(lists []string, n int) (member string) {
	for v := range fromRight(lists) {
		if member = v; n == 0 {
			break
		}
		n--
	}
	return member
}

// parseNode reads an address with or without a port (RFC 7239, section 6; others
// write IPv6 without brackets too). The names "unknown" and "_hidden" are none.
func parseNode(s string) (netip.AddrPort, bool) {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(plain(a.Addr()), a.Port()), true
	}
	if bare, ok := strings.CutPrefix(s, "["); ok {
		if s, ok = strings.CutSuffix(bare, "]"); !ok {
			return netip.AddrPort{}, false
		}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(plain(a), 0), true
}

// plain is an address as others write it: without a zone, which says something on
// the proxy's host only, and IPv4 as such.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// element is one of a Forwarded header.
type element struct{ node, proto, host string }

// parseForwarded reads a Forwarded header (RFC 7239, section 4), with the white
// space that is seen in the field. It is all well formed or nothing is: a quote
// that a client left open must not swallow what a proxy has added.
func parseForwarded(line string) (elements []element, ok bool) {
	var e element
	for rest := line; ; {
		rest = strings.TrimLeft(rest, " \t")
		name, after := cutToken(rest)
		if name != "" {
			var value string
			if value, rest, ok = cutValue(after); !ok {
				return nil, false
			}
			e.set(name, value)
		}
		rest = strings.TrimLeft(rest, " \t")
		switch {
		case rest == "":
			return append(elements, e), true
		case rest[0] == ',':
			elements, e = append(elements, e), element{}
		case rest[0] != ';':
			return nil, false
		}
		rest = rest[1:]
	}
}

func (e *element) set(name, value string) {
	switch {
	case strings.EqualFold(name, "for"):
		e.node = value
	case strings.EqualFold(name, "proto"):
		e.proto = value
	case strings.EqualFold(name, "host"):
		e.host = value
	}
}

// cutToken splits s after the token that it begins with (RFC 9110, section 5.6.2).
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && isToken(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isToken(c byte) bool {
	return isLetterOrDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// cutValue splits s after the value of a parameter: "=" and a token or a quoted
// string. Unquoted addresses with their port and brackets, which the RFC wants
// quoted, are taken too.
func cutValue(s string) (value, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, "=")
	if !ok {
		return "", "", false
	}
	if s == "" || s[0] != '"' {
		i := strings.IndexAny(s, ",; \t\"")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}
