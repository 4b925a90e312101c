package network

import (
	"net/netip"

	"github.com/moby/moby/api/types/network"
)

// lan is a network with what there is of it in memory. What may change is guarded
// by the manager's lock.
type lan struct {
	record
	settings
	index  int32 // of the bridge or parent on the host
	v4, v6 *pool // nil: it has no addresses of the family
	lost   error // why its interface cannot be had, if so: nobody can be connected

	endpoints map[string]*endpoint // by the container's ID
	names     nameTable
}

// newLan makes a network of its record. The interface is not looked at.
func newLan(r record) (*lan, error) {
	n := &lan{record: r, endpoints: map[string]*endpoint{}, names: nameTable{}}
	var err error
	if n.settings, err = parseOptions(r.Driver, r.Internal, r.Options); err != nil {
		return nil, err
	}
	n.makePools()
	return n, nil
}

func (n *lan) makePools() {
	v4, v6 := n.families()
	if n.v4, n.v6 = nil, nil; v4 != nil {
		n.v4 = newPoolOf(*v4)
	}
	if v6 != nil {
		n.v6 = newPoolOf(*v6)
	}
}

// wired says whether containers have an interface in the network.
func (n *lan) wired() bool {
	return n.bridged() || n.Driver == driverMacvlan || n.Driver == driverIPvlan
}

// bridged says whether a bridge of the host joins the containers.
func (n *lan) bridged() bool { return n.Driver == driverBridge }

// userDefined says whether a user made the network: there, containers have names.
func (n *lan) userDefined() bool { return !predefined(n.Name) }

// subnets returns the network's subnets.
func (n *lan) subnets() (list []netip.Prefix) {
	for _, p := range []*pool{n.v4, n.v6} {
		if p != nil {
			list = append(list, p.prefix)
		}
	}
	return list
}

// segment is what rules know of a bridged network.
func (n *lan) segment() segment {
	return segment{
		bridge: n.Interface, subnets: n.subnets(),
		isolated: n.isolated, internal: n.Internal, masquerade: n.masquerade,
	}
}

// ensure makes the network's interface as the record says, or takes over the one
// there is.
func (n *lan) ensure(host *rtnl) error {
	switch n.Driver {
	case driverBridge:
		return n.ensureBridge(host)
	case driverMacvlan, driverIPvlan:
		return n.ensureParent(host)
	}
	return nil
}

// drop deletes the network's interface, unless it was there before the network. It
// is no error if it is gone.
func (n *lan) drop(host *rtnl) error {
	if n.Interface == "" {
		return nil
	}
	if n.Borrowed {
		n.giveBack(host)
		return nil
	}
	err := host.do(deleteLink(n.Interface))
	if !exists(host, n.Interface) {
		return nil
	}
	return err
}

// gateway returns what an endpoint's default route of a family goes by. ok is
// false if the network has none; ipvlan's layer 3 has one without an address.
func (n *lan) gateway(v6 bool) (addr netip.Addr, ok bool) {
	p, none := n.v4, n.noGateway4
	if v6 {
		p, none = n.v6, n.noGateway6
	}
	switch {
	case p == nil || n.Internal || none:
		return addr, false
	case n.layer3:
		return addr, true
	}
	return p.gateway, p.gateway.IsValid()
}

// find returns the network of that name, or nil. The manager must be locked.
func (m *Manager) find(name string) *lan {
	if name == network.NetworkDefault {
		name = network.NetworkBridge
	}
	for _, n := range m.lans {
		if n.Name == name {
			return n
		}
	}
	return nil
}
