package stack

import (
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
		switch {
		case len(s.Ports) == 0:
		case mode == "host":
			t.addf(p.at("ports"), "a service in the host's network has all of the host's ports, and publishes none")
		case mode == "none", strings.HasPrefix(mode, types.ContainerPrefix):
			t.addf(p.at("ports"), "a service without a network of its own publishes no ports")
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
	e.Aliases = append(e.Aliases, s.Name)
	if !c.ServiceNameAliasEnabled() {
		t.unsupportedf(p.at("use_service_name_alias"), "the name of a service leads to it on each of its networks")
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
