package stack

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/deploy"
)

// endpoints are the networks of a service. Its names are the aliases: they lead to
// whichever version has the traffic.
func (t *translation) endpoints(p keys, s types.ServiceConfig) (container.NetworkMode, *network.NetworkingConfig) {
	if mode := s.NetworkMode; mode != "" {
		if mode == "host" && len(s.Ports) > 0 {
			t.addf(p.at("ports"), "a service in the host's network has all of the host's ports, and publishes none")
		}
		return container.NetworkMode(mode), nil
	}
	out := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	var mode container.NetworkMode
	for i, key := range s.NetworksByPriority() {
		name := t.project.Networks[key].Name
		e := t.endpoint(p.at("networks", key), s, key)
		if i == 0 {
			mode = container.NetworkMode(name)
			t.serviceMAC(p, s, e)
		}
		out.EndpointsConfig[name] = e
	}
	return mode, out
}

func (t *translation) endpoint(p keys, s types.ServiceConfig, key string) *network.EndpointSettings {
	c := s.Networks[key]
	e := &network.EndpointSettings{Links: externalLinks(s.ExternalLinks)}
	if c.ServiceNameAliasEnabled() {
		e.Aliases = append(e.Aliases, s.Name)
	}
	if c != nil {
		e.Aliases = append(e.Aliases, c.Aliases...)
		e.GwPriority = c.GatewayPriority
		e.DriverOpts = maps.Clone(map[string]string(c.DriverOpts))
		e.MacAddress = t.mac(p.at("mac_address"), c.MacAddress)
		e.IPAMConfig = &network.EndpointIPAMConfig{
			IPv4Address: t.addr(p.at("ipv4_address"), c.Ipv4Address),
			IPv6Address: t.addr(p.at("ipv6_address"), c.Ipv6Address),
		}
		for i, a := range c.LinkLocalIPs {
			e.IPAMConfig.LinkLocalIPs = append(e.IPAMConfig.LinkLocalIPs, t.addr(p.at("link_local_ips").index(i), a))
		}
		t.interfaceName(p.at("interface_name"), c.InterfaceName, e)
	}
	e.Aliases = append(e.Aliases, t.links[s.Name][key]...)
	e.Aliases = unique(e.Aliases)
	return e
}

// interfaceName is an option of the driver in the Engine API.
func (t *translation) interfaceName(p keys, name string, e *network.EndpointSettings) {
	const option = "com.docker.network.endpoint.ifname"
	if name == "" {
		return
	}
	if other, ok := e.DriverOpts[option]; ok && other != name {
		t.addf(p, "driver_opts has another name: %q", other)
	}
	if e.DriverOpts == nil {
		e.DriverOpts = map[string]string{}
	}
	e.DriverOpts[option] = name
}

// serviceMAC gives the MAC address of a service to its first endpoint.
func (t *translation) serviceMAC(p keys, s types.ServiceConfig, e *network.EndpointSettings) {
	if s.MacAddress == "" {
		return
	}
	mac := t.mac(p.at("mac_address"), s.MacAddress)
	if len(e.MacAddress) > 0 && e.MacAddress.String() != mac.String() {
		t.addf(p.at("mac_address"), "its first network has another one: %s", e.MacAddress)
	}
	e.MacAddress = mac
}

// unique takes away what stands twice, and keeps the order.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// findLinks makes names of links: a service that is linked to has the alias on each
// network that both are on.
func (t *translation) findLinks() {
	t.links = map[string]map[string][]string{}
	owner := map[string]string{}
	for name := range t.project.Services {
		owner[name] = name
	}
	for name, s := range byKey(t.project.Services) {
		for i, l := range s.Links {
			target, alias, ok := strings.Cut(l, ":")
			if !ok {
				alias = target
			}
			at := keys{"services", name, "links"}.index(i)
			if other, taken := owner[alias]; taken && other != target {
				t.addf(at, "the name %s leads to the service %s already", alias, other)
				continue
			}
			owner[alias] = target
			t.link(at, s, target, alias)
		}
	}
}

func (t *translation) link(p keys, s types.ServiceConfig, target, alias string) {
	shared := false
	other := t.project.Services[target]
	for key := range s.Networks {
		if _, ok := other.Networks[key]; !ok {
			continue
		}
		shared = true
		if t.links[target] == nil {
			t.links[target] = map[string][]string{}
		}
		t.links[target][key] = append(t.links[target][key], alias)
	}
	if !shared {
		t.addf(p, "there is no network that %s and %s are both on", s.Name, target)
	}
}

func (t *translation) addr(p keys, s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		t.addf(p, "invalid IP address: %v", err)
	}
	return a.Unmap()
}

func (t *translation) prefix(p keys, s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	a, err := netip.ParsePrefix(s)
	if err != nil {
		t.addf(p, "invalid subnet: %v", err)
	}
	return a
}

func (t *translation) mac(p keys, s string) network.HardwareAddr {
	if s == "" {
		return nil
	}
	a, err := net.ParseMAC(s)
	if err != nil {
		t.addf(p, "invalid MAC address: %v", err)
	}
	return network.HardwareAddr(a)
}

// networks are those that services use, and those that are only stated.
func (t *translation) networks() []deploy.Network {
	var out []deploy.Network
	for key, n := range byKey(t.project.Networks) {
		p := keys{"networks", key}
		if n.External {
			out = append(out, deploy.Network{Key: key, Name: n.Name, External: true, Request: network.CreateRequest{Name: n.Name}})
			continue
		}
		r := network.CreateRequest{
			Name: n.Name, Driver: n.Driver, Options: n.DriverOpts,
			Internal: n.Internal, Attachable: n.Attachable,
			EnableIPv4: n.EnableIPv4, EnableIPv6: n.EnableIPv6,
			IPAM: t.ipam(p.at("ipam"), n.Ipam), Labels: t.labels("network", key, n.Labels),
		}
		out = append(out, deploy.Network{Key: key, Name: n.Name, Request: r})
	}
	return out
}

func (t *translation) ipam(p keys, c types.IPAMConfig) *network.IPAM {
	if c.Driver == "" && len(c.Config) == 0 && len(c.Options) == 0 {
		return nil
	}
	out := &network.IPAM{Driver: c.Driver, Options: c.Options}
	for i, pool := range c.Config {
		at := p.at("config").index(i)
		cfg := network.IPAMConfig{
			Subnet:  t.prefix(at.at("subnet"), pool.Subnet),
			IPRange: t.prefix(at.at("ip_range"), pool.IPRange),
			Gateway: t.addr(at.at("gateway"), pool.Gateway),
		}
		for name, a := range byKey(pool.AuxiliaryAddresses) {
			if cfg.AuxAddress == nil {
				cfg.AuxAddress = map[string]netip.Addr{}
			}
			cfg.AuxAddress[name] = t.addr(at.at("aux_addresses", name), a)
		}
		out.Config = append(out.Config, cfg)
	}
	return out
}

// labels are those that Compose finds its networks and volumes by, and the user's.
func (t *translation) labels(kind, key string, own types.Labels) map[string]string {
	out := map[string]string{
		"com.docker.compose." + kind: key,
		"com.docker.compose.project": t.project.Name,
	}
	maps.Copy(out, own)
	return out
}

func (t *translation) volumes() []deploy.Volume {
	var out []deploy.Volume
	for key, v := range byKey(t.project.Volumes) {
		if v.External {
			out = append(out, deploy.Volume{Key: key, Name: v.Name, External: true, Request: volume.CreateRequest{Name: v.Name}})
			continue
		}
		out = append(out, deploy.Volume{Key: key, Name: v.Name, Request: volume.CreateRequest{
			Name: v.Name, Driver: v.Driver, DriverOpts: v.DriverOpts,
			Labels: t.labels("volume", key, v.Labels),
		}})
	}
	return out
}

// exposed are the ports that containers listen on, as far as it is stated.
func (t *translation) exposed(p keys, s types.ServiceConfig) network.PortSet {
	out := network.PortSet{}
	for _, port := range s.Ports {
		if np, err := network.ParsePort(fmt.Sprintf("%d/%s", port.Target, port.Protocol)); err == nil {
			out[np] = struct{}{}
		}
	}
	for i, e := range s.Expose {
		r, err := network.ParsePortRange(e)
		if err != nil {
			t.addf(p.at("expose").index(i), "%v", err)
			continue
		}
		for port := range r.All() {
			out[port] = struct{}{}
		}
	}
	return out
}

// ports are published by the service, and not by its containers.
func (t *translation) ports(p keys, s types.ServiceConfig) network.PortMap {
	out := network.PortMap{}
	for i, port := range s.Ports {
		at := p.at("ports").index(i)
		np, err := network.ParsePort(fmt.Sprintf("%d/%s", port.Target, port.Protocol))
		if err != nil {
			t.addf(at, "%v", err)
			continue
		}
		switch port.Mode {
		case "", "ingress", "host":
		default:
			t.addf(at, "mode %q is neither ingress nor host", port.Mode)
		}
		if strings.Contains(port.Published, "-") {
			t.unsupportedf(at, "the service has its port whichever containers are behind it: name one instead of %s", port.Published)
			continue
		}
		out[np] = append(out[np], network.PortBinding{HostIP: t.addr(at, port.HostIP), HostPort: port.Published})
	}
	if len(out) == 0 {
		return nil
	}
	if len(s.Ports) > maxRange {
		t.addf(p.at("ports"), "%d ports are more than the %d that a service may publish", len(s.Ports), maxRange)
	}
	return out
}

// checkPorts refuses a port of the host that two services publish.
func (t *translation) checkPorts(services []deploy.Service) {
	type published struct{ proto, port string }
	type binding struct {
		addr    netip.Addr
		service string
	}
	taken := map[published][]binding{}
	for _, s := range services {
		for port, list := range s.Ports {
			for _, b := range list {
				key := published{string(port.Proto()), b.HostPort}
				if b.HostPort == "" || b.HostPort == "0" {
					continue
				}
				for _, other := range taken[key] {
					if other.service != s.Name && overlap(other.addr, b.HostIP) {
						t.addf(keys{"services", s.Name, "ports"}, "port %s/%s of the host is published by %s already", b.HostPort, key.proto, other.service)
					}
				}
				taken[key] = append(taken[key], binding{b.HostIP, s.Name})
			}
		}
	}
}

// overlap says whether two addresses of the host have one in common: an unspecified
// one is all of its family, and none is all of both.
func overlap(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid() || a == b:
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a.IsUnspecified() || b.IsUnspecified()
}
