package network

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// record returns the network of that name, or nil.
func (m *Manager) record(name string) *record {
	for i := range m.networks {
		if m.networks[i].Name == name {
			return &m.networks[i]
		}
	}
	return nil
}

// List returns the networks that the filters choose, by name. The filters are
// those of Docker: driver, id, label, name, scope, type and dangling.
func (m *Manager) List(_ context.Context, filters runner.Filters) ([]network.Inspect, error) {
	if err := filters.Allow("driver", "id", "label", "name", "scope", "type", "dangling"); err != nil {
		return nil, err
	}
	for _, t := range filters["type"] {
		if t != "builtin" && t != "custom" {
			return nil, runner.Errorf(runner.ErrInvalid, "invalid filter: 'type'='%s'", t)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []network.Inspect
	for i := range m.networks {
		n := m.inspect(&m.networks[i])
		chosen := filters.Match("driver", n.Driver) && filters.Match("scope", n.Scope) &&
			filters.Match("type", "builtin") &&
			filters.MatchFunc("name", func(s string) bool { return strings.Contains(n.Name, s) }) &&
			filters.MatchFunc("id", func(s string) bool { return strings.HasPrefix(n.ID, s) }) &&
			filters.MatchLabels("label", n.Labels) &&
			// What is always there is not dangling, though nobody uses it.
			filters.MatchFunc("dangling", func(s string) bool { no, err := strconv.ParseBool(s); return err == nil && !no })
		if chosen {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b network.Inspect) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Inspect returns a network by its name, its ID or the beginning of its ID. It
// fails with runner.ErrNotFound, or runner.ErrInvalid if there are several.
func (m *Manager) Inspect(_ context.Context, ref string) (network.Inspect, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.record(ref); r != nil {
		return m.inspect(r), nil
	}
	var found []*record
	for i := range m.networks {
		if r := &m.networks[i]; ref != "" && strings.HasPrefix(r.ID, ref) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 0:
		return network.Inspect{}, runner.Errorf(runner.ErrNotFound, "network %s not found", ref)
	case 1:
		return m.inspect(found[0]), nil
	}
	return network.Inspect{}, runner.Errorf(runner.ErrInvalid, "network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
}

// inspect must be called with the manager locked.
func (m *Manager) inspect(r *record) network.Inspect {
	n := network.Inspect{
		Network: network.Network{
			Name: r.Name, ID: r.ID, Created: r.Created, Scope: "local", Driver: r.Driver, EnableIPv4: true,
			IPAM: network.IPAM{Driver: "default"}, Options: map[string]string{}, Labels: map[string]string{},
		},
		Containers: map[string]network.EndpointResource{},
	}
	if r.Name == m.bridge.Name {
		m.describeBridge(&n)
	}
	for id, a := range m.attached {
		if a == nil || a.endpoint.Networks[r.Name] == nil {
			continue
		}
		es := a.endpoint.Networks[r.Name]
		c := network.EndpointResource{Name: a.name, EndpointID: es.EndpointID, MacAddress: es.MacAddress}
		if es.IPAddress.IsValid() {
			c.IPv4Address = netip.PrefixFrom(es.IPAddress, es.IPPrefixLen)
		}
		if es.GlobalIPv6Address.IsValid() {
			c.IPv6Address = netip.PrefixFrom(es.GlobalIPv6Address, es.GlobalIPv6PrefixLen)
		}
		n.Containers[id] = c
	}
	return n
}

func (m *Manager) describeBridge(n *network.Inspect) {
	b := m.bridge
	n.IPAM.Config = []network.IPAMConfig{{Subnet: b.Subnet, Gateway: b.v4.gateway}}
	if b.v6 != nil {
		n.EnableIPv6 = true
		n.IPAM.Config = append(n.IPAM.Config, network.IPAMConfig{Subnet: b.Subnet6, Gateway: b.v6.gateway})
	}
	n.Options = map[string]string{
		"com.docker.network.bridge.default_bridge":       "true",
		"com.docker.network.bridge.enable_icc":           "true",
		"com.docker.network.bridge.enable_ip_masquerade": "true",
		"com.docker.network.bridge.host_binding_ipv4":    "0.0.0.0",
		"com.docker.network.bridge.name":                 b.Interface,
		"com.docker.network.driver.mtu":                  strconv.Itoa(b.mtu),
	}
}
