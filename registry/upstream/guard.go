package upstream

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// distance is how near to this machine an address is. What an upstream leads to
// is at least as far as the upstream: one on the Internet cannot make the mirror
// ask hosts of its own network.
type distance int32

const (
	public    distance = iota
	private            // of an organisation's network
	loopback           // this machine
	linkLocal          // this link, where clouds give credentials to their machines
)

// nearness holds the distance of an upstream: public until it is known.
type nearness struct{ v atomic.Int32 }

func (n *nearness) set(d distance) { n.v.Store(int32(d)) }
func (n *nearness) get() distance  { return distance(n.v.Load()) }

// distanceOf judges an address, or the IPv4 address that is embedded in it.
func distanceOf(ip netip.Addr) distance {
	ip = embedded(ip.Unmap().WithZone(""))
	switch {
	case ip.IsLoopback():
		return loopback
	case ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip.IsUnspecified(), within(ip, nearest):
		return linkLocal
	case ip.IsPrivate(), within(ip, inside):
		return private
	default:
		return public
	}
}

// embedded is the IPv4 address of one of NAT64 or 6to4.
func embedded(ip netip.Addr) netip.Addr {
	b := ip.As16()
	switch {
	case nat64.Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFour.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6]))
	default:
		return ip
	}
}

func within(ip netip.Addr, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}

func prefixes(all ...string) []netip.Prefix {
	parsed := make([]netip.Prefix, len(all))
	for i, p := range all {
		parsed[i] = netip.MustParsePrefix(p)
	}
	return parsed
}

// inside are shared, benchmarking and former site-local addresses, nearest those
// of the clouds' metadata outside of link-local ones.
var (
	inside  = prefixes("100.64.0.0/10", "198.18.0.0/15", "192.0.0.0/24", "fec0::/10")
	nearest = prefixes("0.0.0.0/8", "240.0.0.0/4", "100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::/32", "fd20:ce::254/128")

	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// mayAsk refuses a URL that shows that it is nearer than the upstream: behind a
// proxy there is no address to see.
func (u *Upstream) mayAsk(to *url.URL, own bool) error {
	if own {
		return nil
	}
	host := strings.TrimSuffix(strings.ToLower(to.Hostname()), ".")
	d := public
	if ip, err := netip.ParseAddr(host); err == nil {
		d = distanceOf(ip)
	} else if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		d = loopback
	}
	if d > u.near.get() {
		return u.tooNear(host)
	}
	return nil
}

func (u *Upstream) tooNear(host string) error {
	return &fault{kind: barred, reason: u.base.Host + " leads to " + clip(host) + ", which is of a private network, and is not asked"}
}

// dial connects to the upstream or a proxy; or else to an address that is not
// nearer than the upstream, judged when it is known for good.
func (u *Upstream) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: u.o.DialTimeout}
	if !strings.EqualFold(addr, hostPort(u.base)) && !u.proxies.has(addr) {
		host, _, _ := net.SplitHostPort(addr)
		d.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil || distanceOf(ap.Addr()) > u.near.get() {
				return u.tooNear(host)
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, addr)
}

// proxies are the addresses of the proxies that were used.
type proxies struct{ m sync.Map }

func (p *proxies) has(addr string) bool {
	_, ok := p.m.Load(strings.ToLower(addr))
	return ok
}

// noting returns f, and takes note of what it returns.
func (p *proxies) noting(f func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(req *http.Request) (*url.URL, error) {
		proxy, err := f(req)
		if proxy != nil {
			p.m.Store(proxyAddr(proxy), true)
		}
		return proxy, err
	}
}

func proxyAddr(proxy *url.URL) string {
	if proxy.Port() == "" && strings.HasPrefix(proxy.Scheme, "socks5") {
		return net.JoinHostPort(strings.ToLower(proxy.Hostname()), "1080")
	}
	return hostPort(proxy)
}

// maxRedirects is as many as browsers and net/http follow, about.
const maxRedirects = 10

// checkRedirect follows redirects of blobs to where they are stored. That
// Authorization stays behind is the doing of auth.Client, which calls this.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return &fault{kind: barred, reason: from.Host + " redirects without end"}
	case req.URL.Scheme != "https" && (req.URL.Scheme != "http" || from.Scheme == "https"):
		return &fault{kind: barred, reason: from.Host + " redirects from https to " + clip(req.URL.Scheme) + ", which is not followed"}
	case req.URL.User != nil:
		return &fault{kind: barred, reason: from.Host + " redirects with a password in the URL, which is not followed"}
	}
	req.Header.Del("Referer") // it may be a URL that is signed
	return nil
}
