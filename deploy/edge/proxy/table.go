package proxy

import (
	"net"
	"strings"

	"github.com/berth-registry/berth/deploy"
)

// table says which route a request takes. It does not change.
type table struct {
	hosts map[string][]match // by their names, "*.example.com" included, "" for every host
}

// match is a prefix of paths. Those of a host stand with the longest first.
type match struct {
	path  string
	entry *entry
}

// entry is a route with those who answer at this moment.
type entry struct {
	*route

	pool  *pool
	stats *stats // of its service
}

// find returns the entry of a request, and the prefix that its path has; nil if there
// is none. A host's own name comes before a wildcard, that before every host; within
// them the longest prefix does.
func (t *table) find(host, path string) (*entry, string) {
	names := [3]string{host, "", ""}
	if _, parent, ok := strings.Cut(host, "."); ok {
		names[1] = "*." + parent
	}
	for _, name := range names {
		for _, m := range t.hosts[name] {
			if hasPrefix(path, m.path) {
				return m.entry, m.path
			}
		}
	}
	return nil, ""
}

// tls says how a name is served over TLS: TLSOff if it is not.
func (t *table) tls(host string) deploy.TLSMode {
	_, parent, _ := strings.Cut(host, ".")
	for _, name := range []string{host, "*." + parent} {
		for _, m := range t.hosts[name] {
			if m.entry.TLS != deploy.TLSOff {
				return m.entry.TLS
			}
		}
	}
	return deploy.TLSOff
}

// hasPrefix says whether a path is a prefix, or below it.
func hasPrefix(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/' || prefix == "")
}

// hostOf is the name of the host that a request is for, as the table has it.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
