package network

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// attachment is what a container has been given.
type attachment struct {
	id, name, hostname string
	dns                []netip.Addr
	endpoints          []*endpoint // in the order in which they were connected
	target             target      // where published ports lead
	ports              network.PortMap
	reserved           []published
}

// endpoint is a container's place in a network.
type endpoint struct {
	lan      *lan
	holder   string // the container's ID
	name     string // and its name
	settings *network.EndpointSettings
	link     *link // nil in a network without interfaces
}

// link is a container's interface and the addresses that go with it. In a bridged
// network it has an end on the host, which bears the name.
type link struct {
	name   string
	v4, v6 netip.Addr
}

// target is where published ports lead: a family without an address has none.
type target struct {
	v4, v6 netip.Addr
	host   netip.Addr // the address of the host for who names none; not valid: all
}

// given returns what the container has as the caller knows it. The manager must be
// locked.
func (a *attachment) given() Endpoint {
	e := Endpoint{Networks: make(map[string]*network.EndpointSettings, len(a.endpoints)), Ports: a.ports}
	for _, ep := range a.endpoints {
		e.Networks[ep.lan.Name] = ep.settings
	}
	return e
}

// in returns the container's endpoint in a network, or nil.
func (a *attachment) in(n *lan) *endpoint {
	for _, ep := range a.endpoints {
		if ep.lan == n {
			return ep
		}
	}
	return nil
}

// addrs returns all addresses of the container. The manager must be locked.
func (a *attachment) addrs() (list []netip.Addr) {
	if a == nil {
		return nil
	}
	for _, ep := range a.endpoints {
		if ep.link != nil {
			list = append(list, ep.link.v4, ep.link.v6)
		}
	}
	return slices.DeleteFunc(list, func(addr netip.Addr) bool { return !addr.IsValid() })
}

// plugged says whether the container has an interface that leads through the host.
func (a *attachment) plugged() bool {
	return a != nil && slices.ContainsFunc(a.endpoints, func(ep *endpoint) bool { return ep.link != nil })
}

// gateway returns the endpoint by which the default route of a family goes, or
// nil: the one of the highest priority, and among equals of the network whose name
// is the first. It is a pure function.
func gateway(list []*endpoint, v6 bool) *endpoint {
	var best *endpoint
	for _, ep := range list {
		if _, ok := ep.lan.gateway(v6); !ok || ep.link == nil {
			continue
		}
		if best == nil || ep.before(best) {
			best = ep
		}
	}
	return best
}

func (ep *endpoint) before(o *endpoint) bool {
	return cmp.Or(cmp.Compare(o.settings.GwPriority, ep.settings.GwPriority), cmp.Compare(ep.lan.Name, o.lan.Name)) < 0
}

// targetOf returns where the ports of a container with these endpoints lead: to
// those that have its default routes, where a bridge joins them.
func targetOf(list []*endpoint) (t target) {
	if ep := gateway(list, false); ep != nil && ep.lan.bridged() {
		t.v4, t.host = ep.link.v4, ep.lan.hostBinding
	}
	if ep := gateway(list, true); ep != nil && ep.lan.bridged() {
		t.v6 = ep.link.v6
	}
	return t
}

// enter gives a container its place in a network: the addresses wished for, or the
// next free ones. The interface is not made yet.
func (m *Manager) enter(ctx context.Context, a *attachment, n *lan, asked *network.EndpointSettings) (*endpoint, error) {
	got := asked.Copy()
	got.NetworkID, got.EndpointID = n.ID, newID()
	ep := &endpoint{lan: n, holder: a.id, name: a.name, settings: got}
	if n.wired() {
		ep.link = &link{name: m.linkName(got.EndpointID)}
	}
	for {
		m.mu.Lock()
		err := m.place(ep)
		dying, released := m.dying, m.released
		m.mu.Unlock()
		if err == nil {
			ep.describe(a)
			return ep, nil
		}
		if !errors.Is(err, runner.ErrUnavailable) || dying == 0 {
			return nil, err
		}
		// Those of containers that have just ended are free soon.
		select {
		case <-ctx.Done():
			return nil, err
		case <-released:
		}
	}
}

// place takes the endpoint's place in its network. The manager must be locked.
func (m *Manager) place(ep *endpoint) error {
	n := ep.lan
	if !slices.Contains(m.lans, n) { // it was removed meanwhile
		return notFound(n.Name)
	}
	if n.lost != nil && n.v4 == nil && n.v6 == nil && n.wired() {
		return runner.Errorf(runner.ErrPrecondition, "network %s: %w", n.Name, n.lost)
	}
	if n.lost != nil { // an interface may have come since
		n.lost = n.ensure(m.host)
	}
	if n.lost != nil {
		return runner.Errorf(runner.ErrPrecondition, "network %s: %w", n.Name, n.lost)
	}
	if ep.link != nil {
		wish := ep.settings.IPAMConfig
		if wish == nil {
			wish = &network.EndpointIPAMConfig{}
		}
		if err := n.give(ep.link, wish, ep.name); err != nil {
			return err
		}
	}
	n.endpoints[ep.holder] = ep
	return nil
}

// give gives a link its addresses. The manager must be locked.
func (n *lan) give(l *link, wish *network.EndpointIPAMConfig, holder string) (err error) {
	if wish.IPv4Address.IsValid() && n.v4 == nil {
		return runner.Errorf(runner.ErrInvalid, "no configured subnet contains IP address %s", wish.IPv4Address)
	}
	if wish.IPv6Address.IsValid() && n.v6 == nil {
		return runner.Errorf(runner.ErrInvalid, "no configured subnet contains IP address %s", wish.IPv6Address)
	}
	if n.v4 != nil {
		if l.v4 = wish.IPv4Address; l.v4.IsValid() {
			err = n.v4.take(l.v4, holder)
		} else {
			l.v4, err = n.v4.next(holder)
		}
	}
	if err != nil || n.v6 == nil {
		return err
	}
	switch l.v6 = wish.IPv6Address; {
	case l.v6.IsValid():
		err = n.v6.take(l.v6, holder)
	case n.v4 != nil:
		l.v6, err = n.v6.beside(l.v4, n.v4, holder)
	default:
		l.v6, err = n.v6.next(holder)
	}
	if err != nil && n.v4 != nil {
		n.v4.release(l.v4)
	}
	return err
}

// describe completes what inspect shows of an endpoint.
func (ep *endpoint) describe(a *attachment) {
	n, got := ep.lan, ep.settings
	if n.userDefined() {
		got.DNSNames = dnsNames(a, got.Aliases)
	}
	if ep.link == nil {
		return
	}
	if n.v4 != nil {
		got.IPAddress, got.IPPrefixLen = ep.link.v4, n.v4.prefix.Bits()
		got.Gateway, _ = n.gateway(false)
	}
	if n.v6 != nil {
		got.GlobalIPv6Address, got.GlobalIPv6PrefixLen = ep.link.v6, n.v6.prefix.Bits()
		got.IPv6Gateway, _ = n.gateway(true)
	}
	switch {
	case n.Driver == driverIPvlan: // it has its parent's
		got.MacAddress = nil
	case len(got.MacAddress) > 0:
	case ep.link.v4.IsValid():
		got.MacAddress = macOf(ep.link.v4)
	default:
		got.MacAddress = macOfID(got.EndpointID)
	}
}

// quit gives up an endpoint's place, whose interface is gone. The manager must be
// locked.
func (m *Manager) quit(ep *endpoint) {
	n := ep.lan
	if n.endpoints[ep.holder] == ep {
		delete(n.endpoints, ep.holder)
	}
	n.names.remove(ep)
	m.releaseAddresses(ep)
}

// releaseAddresses must be called with the manager locked.
func (m *Manager) releaseAddresses(ep *endpoint) {
	if ep.link == nil {
		return
	}
	if ep.link.v4.IsValid() {
		ep.lan.v4.release(ep.link.v4)
	}
	if ep.link.v6.IsValid() {
		ep.lan.v6.release(ep.link.v6)
	}
	close(m.released)
	m.released = make(chan struct{})
}

// withPorts returns the bindings asked for, those that the container has had in
// their place: so a port that the engine chose stays the same.
func withPorts(asked, had network.PortMap) network.PortMap {
	merged := network.PortMap{}
	maps.Copy(merged, asked)
	for port, bindings := range had {
		if len(bindings) > 0 && len(merged[port]) > 0 {
			merged[port] = bindings
		}
	}
	return merged
}

func notFound(name string) error {
	return runner.Errorf(runner.ErrNotFound, "network %s not found", name)
}
