package network

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// Request asks to connect a container.
type Request struct {
	ContainerID, Name string
	// Hostname is a further name that others on networks of users find it by.
	Hostname string
	// NetNS is the container's network namespace. It may be nil for the networks
	// host and none.
	NetNS *os.File
	// DNS are the servers of names to ask, from the container, in place of the
	// host's.
	DNS []netip.Addr
	// First is the network whose interface is to be the first, if any.
	First string
	// Networks is what is asked for, by the name of the network: addresses
	// (IPAMConfig), a MAC address, aliases and links in networks of users, options
	// and the priority as a gateway may be wished for.
	Networks map[string]*network.EndpointSettings
	// Ports are the bindings asked for. The zero HostIP means every address, IPv4
	// and IPv6; an empty HostPort (or "0") any free port; "8000-8010" the first of
	// them that is free. A port without bindings is returned as it is. They lead to
	// the endpoints that have the default routes: elsewhere nothing is published.
	Ports network.PortMap
}

// Endpoint is what a container was given, as inspect shows it. It is not changed
// later.
type Endpoint struct {
	Networks map[string]*network.EndpointSettings
	Ports    network.PortMap
}

// Attached is a container that was connected before.
type Attached struct {
	ContainerID, Name, Hostname string
	Endpoint                    Endpoint
	NetNS                       string // path of its network namespace, if it has one
	DNS                         []netip.Addr
}

// The options of endpoints.
const (
	optIfName  = "com.docker.network.endpoint.ifname"
	optSysctls = "com.docker.network.endpoint.sysctls"
)

// checkEndpoint returns an error for what is asked of an endpoint and cannot be
// had; it would otherwise be silently ignored.
func (n *lan) checkEndpoint(es *network.EndpointSettings) error {
	switch {
	case len(es.Aliases) > 0 && !n.userDefined():
		return runner.Errorf(runner.ErrInvalid, "network-scoped aliases are only supported for user-defined networks")
	case len(es.Links) > 0 && !n.userDefined():
		return runner.Errorf(runner.ErrInvalid, "links of an endpoint are only supported for user-defined networks")
	case n.Driver == driverIPvlan && len(es.MacAddress) > 0:
		return runner.Errorf(runner.ErrInvalid, "ipvlan interfaces do not support custom mac address assignment")
	case len(es.MacAddress) > 0 && (len(es.MacAddress) != 6 || es.MacAddress[0]&1 != 0):
		return runner.Errorf(runner.ErrInvalid, "invalid MAC address: %s", es.MacAddress)
	}
	if es.IPAMConfig != nil {
		if err := n.checkAddresses(es.IPAMConfig); err != nil {
			return err
		}
	}
	for name, value := range es.DriverOpts {
		var err error
		switch name {
		case optIfName:
			err = checkIfName(value)
		case optSysctls:
			_, err = sysctlsFor(value, "eth0")
		default:
			return runner.Errorf(runner.ErrInvalid, "unknown driver option %q of the endpoint in network %s", name, n.Name)
		}
		if err != nil {
			return runner.Errorf(runner.ErrInvalid, "failed to parse %s value: %q (%w)", name, value, err)
		}
	}
	return nil
}

// asksAddress says whether a container wants addresses that it chose.
func asksAddress(c *network.EndpointIPAMConfig) bool {
	return c != nil && (c.IPv4Address.IsValid() || c.IPv6Address.IsValid() || len(c.LinkLocalIPs) > 0)
}

func noAddress() error {
	return runner.Errorf(runner.ErrInvalid, "user specified IP address is supported on user defined networks only")
}

func (n *lan) checkAddresses(c *network.EndpointIPAMConfig) error {
	switch {
	case asksAddress(c) && !n.wired():
		return noAddress()
	case c.IPv4Address.IsValid() && !c.IPv4Address.Is4():
		return runner.Errorf(runner.ErrInvalid, "invalid IPv4 address: %s", c.IPv4Address)
	case c.IPv6Address.IsValid() && !c.IPv6Address.Is6():
		return runner.Errorf(runner.ErrInvalid, "invalid IPv6 address: %s", c.IPv6Address)
	}
	for _, addr := range c.LinkLocalIPs {
		if !addr.IsLinkLocalUnicast() {
			return runner.Errorf(runner.ErrInvalid, "invalid link-local IP address: %s", addr)
		}
	}
	return nil
}

// sysctlsFor makes out settings of the form net.ipv4.conf.IFNAME.NAME=VALUE,…: as
// the file below /proc/sys of a certain interface, and the value.
func sysctlsFor(list, ifname string) (map[string]string, error) {
	files := map[string]string{}
	for one := range strings.SplitSeq(list, ",") {
		key, value, ok := strings.Cut(one, "=")
		parts := strings.Split(key, ".")
		if !ok || len(parts) != 5 || parts[0] != "net" || parts[3] != "IFNAME" ||
			slices.ContainsFunc(parts, func(s string) bool { return s == "" || strings.ContainsAny(s, "/\x00") }) {
			return nil, fmt.Errorf("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'", one)
		}
		parts[3] = ifname
		files[strings.Join(parts, "/")] = value
	}
	return files, nil
}

// ifNameFor returns the name of an endpoint's interface: the one asked for, or the
// first free one of those that its network names so. It is taken then.
func ifNameFor(ep *endpoint, taken map[string]bool) string {
	name := ep.settings.DriverOpts[optIfName]
	for i := 0; name == "" || taken[name] && ep.settings.DriverOpts[optIfName] == ""; i++ {
		if name = fmt.Sprintf("%s%d", ep.lan.prefix, i); !taken[name] {
			break
		}
	}
	taken[name] = true
	return name
}
