package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ensureBridge makes the bridge as the record says, or takes over the one there
// is.
func (n *lan) ensureBridge(host *rtnl) error {
	link, err := netlink.LinkByName(n.Interface)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		if n.mtu == 0 {
			n.mtu = defaultMTU()
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = n.Interface, n.mtu
		// Without an address of its own a bridge changes it with its ports.
		attrs.HardwareAddr = n.bridgeMAC()
		err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		if err == nil {
			link, err = netlink.LinkByName(n.Interface)
		}
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", n.Interface, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("interface %s is there and is no bridge", n.Interface)
	}
	n.index = int32(link.Attrs().Index)
	n.mtu = link.Attrs().MTU
	if err := n.sysctls(); err != nil {
		return err
	}
	requests := []request{newRequest("set "+n.Interface+" up", unix.RTM_NEWLINK, 0, flagsUp(n.index))}
	for _, a := range n.bridgeAddresses() {
		requests = append(requests, addAddress(n.index, a))
	}
	return host.do(requests...)
}

func (n *lan) bridgeMAC() []byte {
	if n.v4 != nil && n.v4.gateway.IsValid() {
		return macOf(n.v4.gateway)
	}
	return macOfID(n.ID)
}

// bridgeAddresses are those that the host has in the network: the gateways.
func (n *lan) bridgeAddresses() (list []netip.Prefix) {
	if n.v4 != nil && !n.noAddress4 {
		list = append(list, netip.PrefixFrom(n.v4.gateway, n.v4.prefix.Bits()))
	}
	if n.v6 != nil && !n.noAddress6 {
		list = append(list, netip.PrefixFrom(n.v6.gateway, n.v6.prefix.Bits()))
	}
	return list
}

// giveBack takes from a bridge that stays what the network has added to it.
func (n *lan) giveBack(host *rtnl) {
	index, err := host.indexOf(n.Interface)
	if err != nil || !n.bridged() {
		return
	}
	for _, a := range n.bridgeAddresses() {
		_ = host.do(deleteAddress(index, a)) // somebody else may have done it
	}
}

// sysctls sets what the kernel keeps for the bridge alone.
func (n *lan) sysctls() error {
	ipv6 := "net/ipv6/conf/" + n.Interface
	switch {
	case n.v6 != nil:
		err := errors.Join(
			setSysctl(ipv6+"/disable_ipv6", "0"),
			setSysctl(ipv6+"/accept_ra", "0"), // of a container
		)
		if err != nil {
			return err
		}
	case hasIPv6() && !n.Borrowed:
		// Otherwise the host could be reached at a link-local address.
		if err := setSysctl(ipv6+"/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	if n.v4 == nil || n.Internal {
		return nil
	}
	// To reach a container by 127.0.0.1. What it would let in is dropped by a rule.
	return setSysctl("net/ipv4/conf/"+n.Interface+"/route_localnet", "1")
}

// openDefault completes the record of the network bridge and makes its interface.
// Subnets of others are those of other networks.
func (n *lan) openDefault(ctx context.Context, host *rtnl, o Options, others []netip.Prefix) (changed bool, err error) {
	unlock, err := lockSubnets(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	before, before4, before6 := n.Interface, n.Subnet, n.Subnet6
	n.Interface = o.Bridge
	if err := n.choose(ctx, host, o, others); err != nil {
		return false, err
	}
	n.makePools()
	if !hasIPv6() {
		n.v6 = nil
	}
	n.mtu = defaultMTU()
	return n.Interface != before || n.Subnet != before4 || n.Subnet6 != before6, n.ensure(host)
}

// choose sets the subnets: those asked for, those of before, or some that are free
// on the host.
func (n *lan) choose(ctx context.Context, host *rtnl, o Options, others []netip.Prefix) error {
	inUse, err := routes(n.Interface)
	if err != nil {
		return err
	}
	inUse = append(inUse, others...)
	there := exists(host, n.Interface)
	if there && n.differs(o) {
		if there, err = n.replace(host); err != nil {
			return err
		}
		if there {
			o.Log.WarnContext(ctx, "containers are connected: the bridge network keeps its subnets until none is", "subnet", n.Subnet, "subnet6", n.Subnet6)
			return nil
		}
	}
	switch {
	case o.Subnet.IsValid():
		n.Subnet = o.Subnet.Masked()
	case !n.Subnet.IsValid(), overlaps(n.Subnet, inUse) && !there:
		// A host that was moved to another network meanwhile gets another subnet;
		// not so while containers may run.
		if n.Subnet, err = chooseSubnet(inUse); err != nil {
			return err
		}
	}
	switch {
	case o.Subnet6.IsValid():
		n.Subnet6 = o.Subnet6.Masked()
	case !n.Subnet6.IsValid():
		n.Subnet6 = randomULA()
	}
	return nil
}

// differs says whether the record has other subnets than those asked for.
func (n *lan) differs(o Options) bool {
	other := func(have, want netip.Prefix) bool {
		return have.IsValid() && want.IsValid() && have != want.Masked()
	}
	return other(n.Subnet, o.Subnet) || other(n.Subnet6, o.Subnet6)
}

// replace deletes the interface, so that it is made anew, unless something is
// connected to it.
func (n *lan) replace(host *rtnl) (there bool, err error) {
	index, err := host.indexOf(n.Interface)
	if err != nil {
		return false, err
	}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == int(index) {
			return true, nil
		}
	}
	return false, host.do(deleteLink(n.Interface))
}

func exists(host *rtnl, name string) bool {
	_, err := host.indexOf(name)
	return err == nil
}

// defaultMTU returns the MTU of the interface of the host's default route.
func defaultMTU() int {
	const ethernet = 1500
	list, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return ethernet
	}
	for _, r := range list {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU >= 1280 {
			return link.Attrs().MTU
		}
	}
	return ethernet
}
