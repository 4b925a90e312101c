package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// key is a configuration key. It drives the file, the environment, flags and the
// example alike.
type key struct {
	path   string               // section.name
	doc    string               // lines of the example's comment
	reload bool                 // a running server takes a new value on SIGHUP
	value  func(*Config) *value // the field of a configuration
}

// keys lists every key there is. Keys of a section stand together.
var keys = []key{
	{
		path:  "http.addr",
		doc:   "Where the registry listens, host:port. Without a host it listens on all\naddresses of the machine.",
		value: func(c *Config) *value { return address(&c.HTTP.Addr) },
	}, {
		path:  "http.header_timeout",
		doc:   "How long a client may take to send the header of a request.",
		value: func(c *Config) *value { return duration(&c.HTTP.HeaderTimeout) },
	}, {
		path:  "http.body_timeout",
		doc:   "How long a client may send no byte of a request's body.",
		value: func(c *Config) *value { return duration(&c.HTTP.BodyTimeout) },
	}, {
		path:  "http.idle_timeout",
		doc:   "How long a connection may stay open between two requests.",
		value: func(c *Config) *value { return duration(&c.HTTP.IdleTimeout) },
	}, {
		path:  "http.shutdown_timeout",
		doc:   "How long requests in flight may go on after SIGTERM; 0s ends them at once.",
		value: func(c *Config) *value { return durationOrZero(&c.HTTP.ShutdownTimeout) },
	}, {
		path:  "metrics.addr",
		doc:   "Where metrics, health and profiles are served, host:port; \"\" turns it off.",
		value: func(c *Config) *value { return addressOrNone(&c.Metrics.Addr) },
	}, {
		path:   "log.level",
		doc:    "What is logged: debug, info, warn or error and all that is worse.",
		reload: true,
		value:  func(c *Config) *value { return choice(&c.Log.Level, levels) },
	}, {
		path:  "log.format",
		doc:   "text, json, or auto: text on a terminal, JSON otherwise.",
		value: func(c *Config) *value { return choice(&c.Log.Format, formats) },
	}, {
		path:   "log.access",
		doc:    "Whether each request is logged.",
		reload: true,
		value:  func(c *Config) *value { return boolean(&c.Log.Access) },
	}, {
		path:  "storage.data",
		doc:   "The directory of all data. A relative path starts at the working directory.",
		value: func(c *Config) *value { return directory(&c.Storage.Data) },
	}, {
		path:   "storage.upload_expiry",
		doc:    "How long an upload session is kept that nobody writes to.",
		reload: true,
		value:  func(c *Config) *value { return duration(&c.Storage.UploadExpiry) },
	},
}

// section is the part of the key's path before its name.
func (k key) section() string { return k.path[:strings.LastIndexByte(k.path, '.')] }

// name is the part of the key's path behind its section.
func (k key) name() string { return k.path[strings.LastIndexByte(k.path, '.')+1:] }

// variable is the name of the key in the environment.
func (k key) variable() string { return variablePrefix(k.section()) + strings.ToUpper(k.name()) }

// variablePrefix is how the names of a section's variables start.
func variablePrefix(section string) string {
	return "BERTH_" + strings.ToUpper(strings.ReplaceAll(section, ".", "_")) + "_"
}

// lookup finds a key by its path.
func lookup(path string) (key, bool) {
	i := slices.IndexFunc(keys, func(k key) bool { return k.path == path })
	if i < 0 {
		return key{}, false
	}
	return keys[i], true
}

// isSection says whether there are keys in path, or in sections of it.
func isSection(path string) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.path, path+".") })
}

// children lists the names of what is directly in a section; "" is the root.
func children(section string) []string {
	var names []string
	for _, k := range keys {
		rest, ok := k.path, true
		if section != "" {
			rest, ok = strings.CutPrefix(k.path, section+".")
		}
		name, _, _ := strings.Cut(rest, ".")
		if ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// conflict says that values, each possible, are impossible together.
type conflict struct {
	keys    []string
	message string
}

// conflicts checks the rules that concern several keys.
func conflicts(c Config) []conflict {
	var found []conflict
	if overlap(c.HTTP.Addr, c.Metrics.Addr) {
		found = append(found, conflict{
			keys: []string{"metrics.addr", "http.addr"},
			message: fmt.Sprintf("expected two addresses that differ, found %s for metrics.addr and %s for http.addr",
				quote(c.Metrics.Addr), quote(c.HTTP.Addr)),
		})
	}
	return found
}

// overlap says whether two listeners cannot have these addresses at once.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	everywhere := []string{"", "0.0.0.0", "::"}
	return strings.EqualFold(hostA, hostB) || slices.Contains(everywhere, hostA) || slices.Contains(everywhere, hostB)
}
