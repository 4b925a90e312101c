package remote

import (
	"cmp"
	_ "crypto/sha256" // the digests' algorithms
	_ "crypto/sha512"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/berth-registry/berth/runner"
)

const (
	hubDomain   = "docker.io" // in the names of images
	hubRegistry = "registry-1.docker.io"
	hubIndex    = "index.docker.io" // which searches

	defaultCertsDir = "/etc/docker/certs.d"
	defaultStall    = time.Minute
	defaultAgent    = "berth-runner"
)

// Host is how one registry is reached. The zero value is a registry at its own
// name.
type Host struct {
	// Endpoint is the registry's URL where it is not https://HOST. A path is put
	// before the names of repositories.
	Endpoint string
	// Mirrors are URLs that are tried in order before the registry itself to
	// resolve and fetch, and never pushed to. A path is put before the names of
	// repositories; a user and password in the URL are sent to the mirror.
	Mirrors []string

	// CA is a file of certificates that are trusted beside the system's; Cert and
	// Key are the files of a client certificate, in PEM. With any of them the
	// host is never spoken to by plain HTTP.
	CA, Cert, Key string

	SkipVerify bool // accept any certificate
	PlainHTTP  bool // never try TLS
}

// Options of a Client. All are optional.
type Options struct {
	// DefaultRegistry is where names without a host are, rather than at Docker
	// Hub.
	DefaultRegistry string
	// Hosts are by the host[:port] in the names of images; Docker Hub's is
	// "docker.io".
	Hosts map[string]Host
	// Insecure are registries, as host[:port] or as CIDR, that may be spoken to by
	// TLS with any certificate and by plain HTTP, as dockerd's
	// --insecure-registry. Loopback addresses and localhost always are.
	Insecure []string
	// CertsDir has a directory HOST[:PORT] for each registry with certificates of
	// its own: *.crt are authorities, *.cert and *.key client certificates.
	// Empty means /etc/docker/certs.d.
	CertsDir string

	UserAgent string
	// StallTimeout is how long a server may send and take nothing before it is
	// given up; 0 means a minute.
	StallTimeout time.Duration
	Log          *slog.Logger
}

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	o             Options
	log           *slog.Logger
	insecureNets  []netip.Prefix
	insecureHosts []string

	verified, unverified *http.Transport
	own                  ownTransports
	schemes              schemes
}

// New checks the options, their files included, and returns a Client.
func New(o Options) (*Client, error) {
	o.CertsDir = cmp.Or(o.CertsDir, defaultCertsDir)
	o.UserAgent = cmp.Or(o.UserAgent, defaultAgent)
	o.StallTimeout = cmp.Or(o.StallTimeout, defaultStall)
	c := &Client{
		o: o, log: o.Log,
		verified:   newTransport(&tls.Config{MinVersion: tls.VersionTLS12}),
		unverified: newTransport(&tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}), //nolint:gosec // for hosts that are configured so
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, s := range o.Insecure {
		if p, err := netip.ParsePrefix(s); err == nil {
			c.insecureNets = append(c.insecureNets, p.Masked())
			continue
		}
		if !isDomain(s) {
			return nil, fmt.Errorf("insecure registry %q: want HOST[:PORT] or a CIDR", s)
		}
		c.insecureHosts = append(c.insecureHosts, s)
	}
	if o.DefaultRegistry != "" && !isDomain(o.DefaultRegistry) {
		return nil, fmt.Errorf("default registry %q: want HOST[:PORT]", o.DefaultRegistry)
	}
	for name := range o.Hosts {
		if !isDomain(name) {
			return nil, fmt.Errorf("registry host %q: want HOST[:PORT]", name)
		}
		if _, err := c.servers(name); err != nil {
			return nil, fmt.Errorf("registry host %s: %w", name, err)
		}
	}
	return c, nil
}

// ParseName is reference.ParseNormalizedNamed, except that a name without a host
// is at the default registry, if there is one.
func (c *Client) ParseName(name string) (reference.Named, error) {
	if c.o.DefaultRegistry != "" && !hasDomain(name) {
		name = c.o.DefaultRegistry + "/" + name
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "invalid reference format: %w", err)
	}
	return named, nil
}

// hasDomain says whether a name begins with a host, by Docker's rule.
func hasDomain(name string) bool {
	first, _, slash := strings.Cut(name, "/")
	return slash && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first)
}

// isDomain says whether s is a host[:port] as in the names of images; so it is
// safe as the name of a directory, too.
func isDomain(s string) bool {
	named, err := reference.WithName(s + "/x")
	return err == nil && reference.Domain(named) == s
}

// insecure says whether a host may be spoken to without a trusted certificate.
func (c *Client) insecure(host string) bool {
	name := hostname(host)
	if name == "localhost" || slices.Contains(c.insecureHosts, host) {
		return true
	}
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	return addr.IsLoopback() || slices.ContainsFunc(c.insecureNets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// isPrivate says whether a host is an address of a private network.
func isPrivate(host string) bool {
	addr, err := netip.ParseAddr(hostname(host))
	return err == nil && addr.Unmap().IsPrivate()
}

// hostname is a host without its port and brackets.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}
