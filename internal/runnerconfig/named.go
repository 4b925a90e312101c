package runnerconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/berth-registry/berth/internal/settings"
)

const runtimesExample = `runc: /usr/sbin/runc
runsc:
  path: /usr/local/bin/runsc
  args: ["--platform=systrap"]  # before its command
`

// runtimes are paths by name, or paths and arguments.
func runtimes(c *Config) *settings.Named {
	const want = "the absolute path of an OCI runtime"
	return &settings.Named{
		Want:    "names of OCI runtimes",
		Example: runtimesExample,
		Names:   slices.Sorted(maps.Keys(c.Runtimes)),
		Entry: func(name string) []settings.Field {
			if !runtimeName.MatchString(name) {
				return nil
			}
			r := c.Runtimes[name]
			if r == nil {
				if c.Runtimes == nil {
					c.Runtimes = map[string]*Runtime{}
				}
				r = &Runtime{}
				c.Runtimes[name] = r
			}
			return []settings.Field{
				{Value: settings.Match(&r.Path, want, absolute)},
				{Name: "path", Value: settings.Match(&r.Path, want, absolute)},
				{Name: "args", Value: settings.List(&r.Args, "a list of arguments", func(s string) bool { return s != "" })},
			}
		},
	}
}

// logOpts are texts by name.
func logOpts(c *Config) *settings.Named {
	return &settings.Named{
		Want:    "names of options of the log driver",
		Example: "syslog-address: tcp://logs.example.com:514\n",
		Names:   slices.Sorted(maps.Keys(c.Containers.LogOpts)),
		Entry: func(name string) []settings.Field {
			if !logOpt.MatchString(name) {
				return nil
			}
			value := c.Containers.LogOpts[name]
			v := settings.Text(&value, "a text, in quotes if it looks like something else", func(s string) string { return s }, func(s string) (string, bool) {
				if c.Containers.LogOpts == nil {
					c.Containers.LogOpts = map[string]string{}
				}
				c.Containers.LogOpts[name] = s
				return s, true
			})
			return []settings.Field{{Value: v}}
		},
	}
}

const registriesExample = `docker.io:
  mirrors: ["https://mirror.example.com"]  # are tried first to pull
registry.example.com:
  endpoint: ""        # its URL, where it is not https://HOST
  ca: ""              # authorities of its certificate, besides those of the system
  cert: ""            # the certificate to show it
  key: ""             # and its key
  insecure: false     # takes any certificate
  plain_http: false   # speaks HTTP without TLS
  report: false       # is told what runs here, to keep it; only Berth takes that
  username: ""        # of an account that may pull it, where it asks for one
  password_file: ""   # and the file of its password or API key
`

// registries are hosts by name.
func registries(c *Config) *settings.Named {
	return &settings.Named{
		Want:    "host[:port] of registries",
		Example: registriesExample,
		Names:   slices.Sorted(maps.Keys(c.Registries)),
		Entry: func(name string) []settings.Field {
			if !hostName.MatchString(name) {
				return nil
			}
			h := c.Registries[name]
			if h == nil {
				if c.Registries == nil {
					c.Registries = map[string]*Host{}
				}
				h = &Host{}
				c.Registries[name] = h
			}
			return []settings.Field{
				{Name: "endpoint", Value: settings.Match(&h.Endpoint, wantURL+`, or ""`, urlOrNone)},
				{Name: "mirrors", Value: settings.List(&h.Mirrors, "a list of URLs such as https://mirror.example.com", webURL.MatchString)},
				{Name: "ca", Value: settings.PathOrNone(&h.CA, wantFile)},
				{Name: "cert", Value: settings.PathOrNone(&h.Cert, wantFile)},
				{Name: "key", Value: settings.PathOrNone(&h.Key, wantFile)},
				{Name: "insecure", Value: settings.Boolean(&h.Insecure)},
				{Name: "plain_http", Value: settings.Boolean(&h.PlainHTTP)},
				{Name: "report", Value: settings.Boolean(&h.Report)},
				{Name: "username", Value: settings.Text(&h.Username, "the name of an account", func(s string) string { return s }, accountName)},
				{Name: "password_file", Value: settings.PathOrNone(&h.PasswordFile, "the path of a file")},
			}
		},
	}
}

// accountName accepts what can stand before the colon of Basic credentials (RFC 7617,
// section 2).
func accountName(s string) (string, bool) { return s, !strings.ContainsAny(s, ":\x00\r\n") }

// conflicts checks the rules that concern several keys.
func conflicts(c Config) []settings.Conflict {
	var found []settings.Conflict
	report := func(message string, keys ...string) {
		found = append(found, settings.Conflict{Keys: keys, Message: message})
	}
	tls := []string{c.TCP.TLS.Cert, c.TCP.TLS.Key, c.TCP.TLS.ClientCA}
	keys := []string{"tcp.addr", "tcp.tls.cert", "tcp.tls.key", "tcp.tls.client_ca"}
	switch {
	case c.TCP.Addr != "" && slices.Contains(tls, ""):
		report("expected all of tcp.tls.cert, tcp.tls.key and tcp.tls.client_ca with it: whoever reaches the API is root, "+
			"so over TCP it is served to clients with a certificate only", keys...)
	case c.TCP.Addr == "" && strings.Join(tls, "") != "":
		report("expected tcp.addr with it", keys[1:]...)
	}
	if settings.Overlap(c.TCP.Addr, c.Metrics.Addr) {
		report(fmt.Sprintf("expected two addresses that differ, found %s for metrics.addr and %s for tcp.addr",
			settings.Quote(c.Metrics.Addr), settings.Quote(c.TCP.Addr)), "metrics.addr", "tcp.addr")
	}
	if c.Data == c.Run {
		report("expected two directories that differ, found "+settings.Quote(c.Data)+" for data and run", "run", "data")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		if c.Runtimes[name].Path == "" {
			report("expected a path for "+name, "runtimes")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Registries)) {
		h := c.Registries[name]
		if (h.Cert == "") != (h.Key == "") {
			report("expected both cert and key for "+name+", or neither", "registries")
		}
		if h.PlainHTTP && (h.CA != "" || h.Cert != "" || h.Insecure) {
			report("expected no certificates and no insecure for "+name+", which is spoken to by plain HTTP", "registries")
		}
		if (h.Username == "") != (h.PasswordFile == "") {
			report("expected both username and password_file for "+name+", or neither", "registries")
		}
		if h.Username != "" && !h.Report && !slices.ContainsFunc(c.Follow, func(f *Follow) bool { return f.Host() == name }) {
			report("expected report: true with username for "+name+": it is not used to pull, for which docker has credentials", "registries")
		}
	}
	found = append(found, followConflicts(c)...)
	trustConflicts(c, report)
	return append(found, edgeConflicts(c)...)
}
