package stack

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"
	"golang.org/x/net/idna"

	"github.com/berth-registry/berth/deploy"
)

// edgeLabel is what the labels begin with that say how the HTTP edge leads to a
// service: berth.edge.KEY, or berth.edge.NAME.KEY where there are several routes.
const edgeLabel = "berth.edge."

// edgeKeys are the keys of a route.
const edgeKeys = "host path port tls sticky retries try-for strip-path max-body compress"

// routes reads the routes of a service from its labels, in the order of their names.
func (t *translation) routes(p keys, s types.ServiceConfig) []deploy.Route {
	named := map[string]map[string]string{}
	for label, value := range byKey(s.Labels) {
		rest, ok := strings.CutPrefix(label, edgeLabel)
		if !ok {
			continue
		}
		name, key, several := strings.Cut(rest, ".")
		if !several {
			name, key = "", rest
		}
		if !slices.Contains(strings.Fields(edgeKeys), key) || strings.HasPrefix(rest, ".") {
			t.addf(p.at("labels", label), "no such label of the edge: there are berth.edge.KEY and berth.edge.NAME.KEY, with a KEY of %s",
				strings.Join(strings.Fields(edgeKeys), ", "))
			continue
		}
		if named[name] == nil {
			named[name] = map[string]string{}
		}
		named[name][key] = value
	}
	var out []deploy.Route
	for name, values := range byKey(named) {
		prefix := edgeLabel
		if name != "" {
			prefix += name + "."
		}
		r := &route{translation: t, service: p, prefix: prefix, values: values}
		out = append(out, r.read(s))
		r.claim(out[len(out)-1])
	}
	if len(out) > 0 && t.jobs[s.Name] {
		t.addf(p.at("labels"), "a job has no routes of the edge: it ends")
	}
	if len(out) > 0 && s.NetworkMode != "" {
		t.addf(p.at("network_mode"), "the edge reaches services on a network of the stack")
	}
	return out
}

// route is one that is read.
type route struct {
	*translation
	service keys
	prefix  string
	values  map[string]string
}

// label returns where the label of a key is.
func (r *route) label(key string) keys { return r.service.at("labels", r.prefix+key) }

func (r *route) read(s types.ServiceConfig) deploy.Route {
	out := deploy.Route{
		Hosts:  asciiHosts(r.list("host", r.checkHost)),
		Paths:  r.list("path", r.checkPath),
		Port:   r.port(s),
		Sticky: r.cookie(),
	}
	if out.TLS = deploy.TLSOff; len(out.Hosts) > 0 {
		out.TLS = deploy.TLSAuto
	}
	if v, ok := r.values["tls"]; ok {
		out.TLS = deploy.TLSMode(r.word(r.label("tls"), v, string(deploy.TLSAuto), string(deploy.TLSInternal), string(deploy.TLSOff)))
		if out.TLS != deploy.TLSOff && len(out.Hosts) == 0 {
			r.addf(r.label("tls"), "a certificate is for a name: say %shost", r.prefix)
		}
	}
	if v, ok := r.values["retries"]; ok {
		out.Retries = r.integer(r.label("retries"), v, 0, 100)
	}
	if v, ok := r.values["try-for"]; ok {
		out.TryFor = r.duration(r.label("try-for"), v)
		if out.TryFor > time.Hour {
			r.addf(r.label("try-for"), "%s is longer than an hour", v)
		}
	}
	if v, ok := r.values["strip-path"]; ok {
		out.StripTo = r.boolean(r.label("strip-path"), v)
		if len(out.Paths) == 0 {
			r.addf(r.label("strip-path"), "there is no path to take away: say %spath", r.prefix)
		}
	}
	if v, ok := r.values["compress"]; ok {
		out.Compress = r.boolean(r.label("compress"), v)
	}
	if v, ok := r.values["max-body"]; ok {
		n, err := units.RAMInBytes(v)
		if err != nil || n <= 0 {
			r.addf(r.label("max-body"), "%q is no size like 10MB", v)
		}
		out.MaxBody = n
	}
	return out
}

// claim refuses a route to where another one of the stack leads already.
func (r *route) claim(made deploy.Route) {
	hosts, paths := made.Hosts, made.Paths
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	if len(paths) == 0 {
		paths = []string{""}
	}
	for _, host := range hosts {
		for _, p := range paths {
			place := host + strings.TrimRight(p, "/") + "/"
			if other, taken := r.claimed[place]; taken {
				r.addf(r.service.at("labels"), "%s leads to %s already", place, other)
			}
			r.claimed[place] = r.service[1]
		}
	}
}

// maxListed bounds the hosts and the paths of a route.
const maxListed = 100

// list splits the values of a key at commas.
func (r *route) list(key string, check func(string) string) []string {
	v, ok := r.values[key]
	if !ok {
		return nil
	}
	if n := 1 + strings.Count(v, ","); n > maxListed {
		r.addf(r.label(key), "%d are more than the %d that a route may have", n, maxListed)
		return nil
	}
	var out []string
	for s := range strings.SplitSeq(v, ",") {
		s = strings.TrimSpace(s)
		if why := check(s); why != "" {
			r.addf(r.label(key), "%q %s", s, why)
			continue
		}
		out = append(out, s)
	}
	return out
}

var hostName = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// asciiHost is a name as clients ask for it: with letters that are not of ASCII encoded
// (RFC 5891).
func asciiHost(s string) string {
	wild, name := "", s
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		wild, name = "*.", rest
	}
	if strings.IndexFunc(name, func(c rune) bool { return c > unicode.MaxASCII }) < 0 {
		return s
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return s // which is refused
	}
	return wild + ascii
}

func asciiHosts(names []string) []string {
	for i, name := range names {
		names[i] = asciiHost(name)
	}
	return names
}

func (r *route) checkHost(s string) string {
	if s = asciiHost(s); len(s) > 253 || !hostName.MatchString(s) {
		return "is no name of a host, in small letters and without a port"
	}
	return ""
}

func (r *route) checkPath(s string) string {
	if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, "*?#%\\ \t\r\n\x00") || strings.Contains(s, "//") {
		return "is no prefix of a path like /api"
	}
	return ""
}

// port is that of the container; it need not be said if the service has one port.
func (r *route) port(s types.ServiceConfig) int {
	if v, ok := r.values["port"]; ok {
		return r.integer(r.label("port"), v, 1, 65535)
	}
	var known []int
	for port := range r.exposed(r.service, types.ServiceConfig{WorkloadSpec: types.WorkloadSpec{Ports: s.Ports, Expose: s.Expose}}) {
		if port.Proto() == "tcp" {
			known = append(known, int(port.Num()))
		}
	}
	if len(known) == 1 {
		return known[0]
	}
	r.addf(r.service.at("labels"), "which port of the container does the edge lead to? say %sport", r.prefix)
	return 0
}

// token is a token of HTTP, RFC 9110 section 5.6.2, of at most 64 bytes.
var token = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$")

// cookie is the name of the one that keeps a client at its replica.
func (r *route) cookie() string {
	v, ok := r.values["sticky"]
	if !ok {
		return ""
	}
	if !token.MatchString(v) || v == "true" || v == "false" {
		r.addf(r.label("sticky"), "%q is no name for a cookie", v)
	}
	return v
}
