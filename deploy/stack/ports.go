package stack

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/deploy"
)

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
		if _, err := strconv.ParseUint(port.Published, 10, 16); port.Published != "" && err != nil {
			t.addf(at, "%q is no port of the host", port.Published)
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

// checkPorts refuses a port of the host that is published twice.
func (t *translation) checkPorts(services []deploy.Service) {
	type published struct{ proto, port string }
	type binding struct {
		addr    netip.Addr
		service string
		to      network.Port
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
					if (other.service != s.Name || other.to != port) && overlap(other.addr, b.HostIP) {
						t.addf(keys{"services", s.Name, "ports"}, "port %s/%s of the host is published by %s already", b.HostPort, key.proto, other.service)
					}
				}
				taken[key] = append(taken[key], binding{b.HostIP, s.Name, port})
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
