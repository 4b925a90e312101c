package network

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-registry/berth/runner/network/names"
)

const (
	resolvConf         = "/etc/resolv.conf"
	resolvedResolvConf = "/run/systemd/resolve/resolv.conf"
)

// HostResolvConf returns the host's resolv.conf; where it names none but local
// servers, as with systemd-resolved, the one that names the servers behind those.
// It is empty if the host has none.
func HostResolvConf() []byte {
	host, _ := os.ReadFile(resolvConf)
	if len(parseResolvConf(host, true).servers) > 0 {
		return host
	}
	if behind, err := os.ReadFile(resolvedResolvConf); err == nil && len(parseResolvConf(behind, true).servers) > 0 {
		return behind
	}
	return host
}

// ResolvConf returns the content of a container's /etc/resolv.conf: the host's,
// with what is given in place of its servers, search domains or options. A search
// of "." means none. Servers of the host at loopback addresses are left out: they
// are not there in the container. If none remains, two public ones stand in, as
// with Docker.
func ResolvConf(host []byte, dns []netip.Addr, search, options []string) []byte {
	c := parseResolvConf(host, true)
	if len(c.servers) == 0 {
		c.servers = []string{"8.8.8.8", "8.8.4.4"}
	}
	return c.with(dns, search, options)
}

// ResolvConfOfHost is ResolvConf for a container in the host's network: there,
// servers at loopback addresses serve, and stay.
func ResolvConfOfHost(host []byte, dns []netip.Addr, search, options []string) []byte {
	if len(dns)+len(search)+len(options) == 0 {
		return host
	}
	return parseResolvConf(host, false).with(dns, search, options)
}

// ResolvConfOfNames is ResolvConf for a container that is on a network of a user:
// all is asked of the server there. A name without a dot is looked for as it is
// before search domains are tried, unless the options say otherwise.
func ResolvConfOfNames(host []byte, search, options []string) []byte {
	c := parseResolvConf(host, false)
	if len(options) > 0 {
		c.options = options
	}
	if !slices.ContainsFunc(c.options, setsDots) {
		c.options = append(slices.Clone(c.options), "ndots:0")
	}
	return c.with([]netip.Addr{names.Address()}, search, nil)
}

func setsDots(option string) bool {
	value, ok := strings.CutPrefix(option, "ndots:")
	n, err := strconv.Atoi(value)
	return ok && err == nil && n >= 0
}

type resolver struct{ servers, search, options []string }

func (c resolver) with(dns []netip.Addr, search, options []string) []byte {
	if len(dns) > 0 {
		c.servers = nil
		for _, a := range dns {
			c.servers = append(c.servers, a.String())
		}
	}
	if len(search) > 0 {
		c.search = slices.DeleteFunc(slices.Clone(search), func(s string) bool { return s == "." || s == "" })
	}
	if len(options) > 0 {
		c.options = options
	}
	var b bytes.Buffer
	for _, s := range c.servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(c.search) > 0 {
		b.WriteString("search " + strings.Join(c.search, " ") + "\n")
	}
	if len(c.options) > 0 {
		b.WriteString("options " + strings.Join(c.options, " ") + "\n")
	}
	return b.Bytes()
}

// parseResolvConf reads what resolv.conf(5) says: the last search line holds,
// options add up.
func parseResolvConf(content []byte, dropLoopback bool) resolver {
	var c resolver
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			addr, err := netip.ParseAddr(f[1])
			// A link-local server is reached by an interface of the host only.
			if err != nil || dropLoopback && (addr.IsLoopback() || addr.Zone() != "") {
				continue
			}
			c.servers = append(c.servers, f[1])
		case "search", "domain":
			c.search = f[1:]
		case "options":
			c.options = append(c.options, f[1:]...)
		}
	}
	return c
}
