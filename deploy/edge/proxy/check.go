package proxy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

var (
	hostPattern   = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	cookiePattern = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")
)

// place is a host and a prefix of paths, which one route can have.
type place struct{ host, path string }

func (p place) String() string {
	host, path := p.host, p.path
	if host == "" {
		host = "every host"
	}
	if path == "" {
		path = "/"
	}
	return host + " " + path
}

// places are all that a route has.
func places(r deploy.Route) []place {
	hosts, paths := r.Hosts, r.Paths
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	if len(paths) == 0 {
		paths = []string{""}
	}
	var all []place
	for _, host := range hosts {
		for _, path := range paths {
			all = append(all, place{host, path})
		}
	}
	return all
}

// normal returns a route as it is compared and kept, or says what is wrong with it.
// Hosts are lower case, paths have no slash at their end.
func normal(r deploy.EdgeRoute) (deploy.EdgeRoute, error) {
	bad := func(format string, args ...any) (deploy.EdgeRoute, error) {
		return r, runner.Errorf(runner.ErrInvalid, "route of service %s: %s", r.Service, fmt.Sprintf(format, args...))
	}
	r.Hosts, r.Paths = slices.Clone(r.Hosts), slices.Clone(r.Paths)
	for i, host := range r.Hosts {
		r.Hosts[i] = strings.ToLower(strings.TrimSuffix(host, "."))
		if len(host) > 253 || !hostPattern.MatchString(r.Hosts[i]) {
			return bad("%q is not the name of a host", host)
		}
	}
	for i, path := range r.Paths {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#%*\\\x00\r\n") || strings.Contains(path, "//") {
			return bad("%q is not the prefix of a path, such as /api", path)
		}
		r.Paths[i] = strings.TrimRight(path, "/")
	}
	if r.Sticky != "" && !cookiePattern.MatchString(r.Sticky) {
		return bad("%q is not the name of a cookie", r.Sticky)
	}
	if r.Retries < 0 || r.TryFor < 0 || r.MaxBody < 0 {
		return bad("numbers are at least 0")
	}
	if r.TLS == "" {
		r.TLS = deploy.TLSOff
	}
	if !slices.Contains([]deploy.TLSMode{deploy.TLSAuto, deploy.TLSInternal, deploy.TLSOff}, r.TLS) {
		return bad("TLS mode %q is not acme, internal or off", r.TLS)
	}
	seen := map[string]bool{}
	for _, u := range r.Upstreams {
		if !u.Addr.IsValid() || u.Addr.Port() == 0 || u.Weight < 0 || u.ID == "" || seen[u.ID] {
			return bad("the replica %q at %s with weight %d cannot be", u.ID, u.Addr, u.Weight)
		}
		seen[u.ID] = true
	}
	return r, nil
}

// certifiable says whether the names of a route can have the certificates that it asks
// for. own says whether there is a certificate of the operator's for a name.
func certifiable(r deploy.EdgeRoute, https bool, own func(string) bool) error {
	bad := func(format string, args ...any) error {
		return runner.Errorf(runner.ErrInvalid, "route of service %s: %s", r.Service, fmt.Sprintf(format, args...))
	}
	if r.TLS == deploy.TLSOff {
		return nil
	}
	if !https {
		return bad("TLS mode %s: the edge does not listen for HTTPS: configure edge.https, or label the service berth.edge.tls: \"off\"", r.TLS)
	}
	if len(r.Hosts) == 0 {
		return bad("TLS mode %s: a certificate is for the name of a host, and the route has none", r.TLS)
	}
	for _, host := range r.Hosts {
		switch {
		case r.TLS != deploy.TLSAuto || own(host):
		case strings.HasPrefix(host, "*."):
			return bad("TLS mode acme: there is no certificate for %s in edge.certs, and none is obtained for a wildcard: name each host", host)
		case !certmagic.SubjectQualifiesForPublicCert(host) || isIP(host):
			return bad("TLS mode acme: no authority has a certificate for %s", host)
		}
	}
	return nil
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// disjoint fails with runner.ErrConflict if two routes have one place.
func disjoint(owners map[string][]deploy.EdgeRoute, owner string) error {
	type holder struct{ owner, service string }
	taken := map[place]holder{}
	for other, routes := range owners {
		if other == owner {
			continue
		}
		for _, r := range routes {
			for _, p := range places(r.Route) {
				taken[p] = holder{other, r.Service}
			}
		}
	}
	for _, r := range owners[owner] {
		for _, p := range places(r.Route) {
			if by, ok := taken[p]; ok {
				return runner.Errorf(runner.ErrConflict, "%s is asked for by service %s of %s, and service %s of %s has it",
					p, r.Service, owner, by.service, by.owner)
			}
			taken[p] = holder{owner, r.Service}
		}
	}
	return nil
}
