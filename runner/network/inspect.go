package network

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

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
	for _, n := range m.lans {
		if n.chosen(filters) {
			list = append(list, n.inspect())
		}
	}
	slices.SortFunc(list, func(a, b network.Inspect) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// chosen says whether filters choose a network. The manager must be locked.
func (n *lan) chosen(filters runner.Filters) bool {
	kind := "builtin"
	if n.userDefined() {
		kind = "custom"
	}
	// What is always there is not dangling, though nobody uses it.
	dangling := n.userDefined() && len(n.endpoints) == 0
	return filters.Match("driver", n.Driver) && filters.Match("scope", "local") &&
		filters.Match("type", kind) &&
		filters.MatchFunc("name", func(s string) bool { return strings.Contains(n.Name, s) }) &&
		filters.MatchFunc("id", func(s string) bool { return strings.HasPrefix(n.ID, s) }) &&
		filters.MatchLabels("label", n.Labels) &&
		filters.MatchFunc("dangling", func(s string) bool { want, err := strconv.ParseBool(s); return err == nil && want == dangling })
}

// Inspect returns a network by its name, its ID or the beginning of its ID. It
// fails with runner.ErrNotFound, or runner.ErrInvalid if there are several.
func (m *Manager) Inspect(_ context.Context, ref string) (network.Inspect, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.resolve(ref)
	if err != nil {
		return network.Inspect{}, err
	}
	return n.inspect(), nil
}

// Ref names a network.
type Ref struct{ ID, Name, Driver string }

// Resolve is Inspect for who needs to know only which network is meant.
func (m *Manager) Resolve(ref string) (Ref, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.resolve(ref)
	if err != nil {
		return Ref{}, err
	}
	return Ref{ID: n.ID, Name: n.Name, Driver: n.Driver}, nil
}

// Check says what is wrong with the wishes of a container that is to be connected
// to a network later.
func (m *Manager) Check(name string, es *network.EndpointSettings) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.find(name)
	if n == nil {
		return notFound(name)
	}
	if !n.userDefined() && asksAddress(es.IPAMConfig) {
		return noAddress()
	}
	return n.checkEndpoint(es)
}

// resolve finds a network by its name, its ID or the beginning of its ID. The
// manager must be locked.
func (m *Manager) resolve(ref string) (*lan, error) {
	if n := m.find(ref); n != nil {
		return n, nil
	}
	var found []*lan
	for _, n := range m.lans {
		if ref != "" && strings.HasPrefix(n.ID, ref) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return nil, notFound(ref)
	case 1:
		return found[0], nil
	}
	return nil, runner.Errorf(runner.ErrInvalid, "network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
}

// inspect describes a network. The manager must be locked.
func (n *lan) inspect() network.Inspect {
	v := network.Inspect{
		Network: network.Network{
			Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver,
			EnableIPv4: n.v4 != nil || !n.wired(), EnableIPv6: n.v6 != nil,
			IPAM:     network.IPAM{Driver: "default", Config: n.ipam()},
			Internal: n.Internal, Attachable: n.Attachable,
			Options: map[string]string{}, Labels: map[string]string{},
		},
		Containers: map[string]network.EndpointResource{},
		Status:     n.status(),
	}
	maps.Copy(v.Options, n.Options)
	maps.Copy(v.Labels, n.Labels)
	if n.Name == network.NetworkBridge {
		v.Options = n.defaultOptions()
	}
	for id, ep := range n.endpoints {
		es := ep.settings
		c := network.EndpointResource{Name: ep.name, EndpointID: es.EndpointID, MacAddress: es.MacAddress}
		if es.IPAddress.IsValid() {
			c.IPv4Address = netip.PrefixFrom(es.IPAddress, es.IPPrefixLen)
		}
		if es.GlobalIPv6Address.IsValid() {
			c.IPv6Address = netip.PrefixFrom(es.GlobalIPv6Address, es.GlobalIPv6PrefixLen)
		}
		v.Containers[id] = c
	}
	return v
}

// ipam is what inspect shows of the network's addresses.
func (n *lan) ipam() []network.IPAMConfig {
	var list []network.IPAMConfig
	v4, v6 := n.families()
	for _, a := range []*addressing{v4, v6} {
		if a != nil {
			list = append(list, network.IPAMConfig{Subnet: a.Subnet, IPRange: a.Range, Gateway: a.Gateway, AuxAddress: a.Aux})
		}
	}
	return list
}

// defaultOptions are those that the network bridge has.
func (n *lan) defaultOptions() map[string]string {
	return map[string]string{
		"com.docker.network.bridge.default_bridge": "true",
		optICC:         "true",
		optMasquerade:  "true",
		optHostBinding: "0.0.0.0",
		optBridge:      n.Interface,
		optMTU:         strconv.Itoa(n.mtu),
	}
}
