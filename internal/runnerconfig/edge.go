package runnerconfig

import (
	"fmt"
	"net/netip"
	"regexp"

	"github.com/berth-registry/berth/internal/settings"
)

// Edge configures the HTTP edge, which serves host names, paths and TLS of stacks.
type Edge struct {
	HTTP, HTTPS    string // host:port, or empty for none
	TrustedProxies []string
	Certs          string // directory, or empty
	ACME           EdgeACME
	AccessLog      bool
	Program        string // path, or empty for the one beside the runner, or on the PATH
}

// EdgeACME says where the HTTP edge gets certificates.
type EdgeACME struct {
	Email       string
	Directory   string // URL, or empty for Let's Encrypt
	DirectoryCA string // path of a PEM file, or empty
}

// Enabled says whether there is an HTTP edge.
func (e Edge) Enabled() bool { return e.HTTP != "" || e.HTTPS != "" }

var email = regexp.MustCompile(`^([^@\s]+@[^@\s]+)?$`)

// isRange accepts an address or a range of them.
func isRange(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == ""
	}
	_, err := netip.ParsePrefix(s)
	return err == nil
}

// edgeKeys are about the HTTP edge.
var edgeKeys = []settings.Key[Config]{
	{
		Path:  "edge.http",
		Doc:   "Where stacks are served by HTTP under their host names, host:port such as :80; \"\"\nturns it off. With edge.https it redirects there, and answers challenges of ACME.",
		Value: func(c *Config) *settings.Value { return settings.AddressOrNone(&c.Edge.HTTP) },
	}, {
		Path:  "edge.https",
		Doc:   "Where they are served by HTTPS, host:port such as :443; \"\" turns it off. Without both\nthere is no HTTP edge.",
		Value: func(c *Config) *settings.Value { return settings.AddressOrNone(&c.Edge.HTTPS) },
	}, {
		Path: "edge.trusted_proxies",
		Doc:  "Proxies in front of it, by address or range (10.0.0.0/8), that are believed when they\nsay who the client is (X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host).",
		Value: func(c *Config) *settings.Value {
			return settings.List(&c.Edge.TrustedProxies, "a list of addresses or ranges such as 10.0.0.0/8", isRange)
		},
	}, {
		Path: "edge.certs",
		Doc:  "A directory of certificates of your own, NAME.crt with its key NAME.key, which come\nbefore all others and are read again when they change; \"\" is none.",
		Value: func(c *Config) *settings.Value {
			return settings.PathOrNone(&c.Edge.Certs, "the path of a directory")
		},
	}, {
		Path:  "edge.access_log",
		Doc:   "Whether each request is logged, in edge/access.log of the data directory.",
		Value: func(c *Config) *settings.Value { return settings.Boolean(&c.Edge.AccessLog) },
	}, {
		Path:  "edge.program",
		Doc:   "The program that does it; \"\" looks for berth-edge beside the runner, then on the PATH.",
		Value: func(c *Config) *settings.Value { return settings.PathOrNone(&c.Edge.Program, wantProgram) },
	}, {
		Path: "edge.acme.email",
		Doc:  "Where the authority of certificates writes to when something is wrong.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Edge.ACME.Email, `an e-mail address, or ""`, email)
		},
	}, {
		Path: "edge.acme.directory",
		Doc:  "The authority's directory; \"\" is Let's Encrypt.",
		Value: func(c *Config) *settings.Value {
			return settings.Match(&c.Edge.ACME.Directory, wantURL+`, or ""`, urlOrNone)
		},
	}, {
		Path:  "edge.acme.directory_ca",
		Doc:   "Authorities of the directory's own certificate, where the system does not know them.",
		Value: func(c *Config) *settings.Value { return settings.PathOrNone(&c.Edge.ACME.DirectoryCA, wantFile) },
	},
}

// edgeConflicts checks the rules that concern the HTTP edge.
func edgeConflicts(c Config) (found []settings.Conflict) {
	listening := []struct{ key, addr string }{
		{"edge.http", c.Edge.HTTP}, {"edge.https", c.Edge.HTTPS}, {"tcp.addr", c.TCP.Addr}, {"metrics.addr", c.Metrics.Addr},
	}
	for i, a := range listening[:2] {
		for _, b := range listening[i+1:] {
			if settings.Overlap(a.addr, b.addr) {
				found = append(found, settings.Conflict{
					Keys:    []string{a.key, b.key},
					Message: fmt.Sprintf("expected two addresses that differ, found %s for %s and %s for %s", settings.Quote(a.addr), a.key, settings.Quote(b.addr), b.key),
				})
			}
		}
	}
	if c.Edge.HTTPS != "" {
		return found
	}
	for key, set := range map[string]bool{
		"edge.certs": c.Edge.Certs != "", "edge.acme.email": c.Edge.ACME.Email != "",
		"edge.acme.directory": c.Edge.ACME.Directory != "", "edge.acme.directory_ca": c.Edge.ACME.DirectoryCA != "",
	} {
		if set {
			found = append(found, settings.Conflict{Keys: []string{key}, Message: "expected edge.https with it"})
		}
	}
	return found
}
