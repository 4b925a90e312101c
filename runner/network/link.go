package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// announce sets up the host's end.
//
// The bridge may send a packet back to where it came from: so it must, where it
// calls the rules of IP itself (bridge-nf-call-iptables), for a container that
// connects to its own published port.
//
// The host is told the container's hardware address. It may remember that of
// another that had the same IP address before. The entries are as good as found
// out a while ago: they need no removing.
func (p plug) announce(host *rtnl) error {
	index, err := host.indexOf(p.host)
	if err != nil {
		return fmt.Errorf("interface %s: %w", p.host, err)
	}
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = index
	port := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	port.AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{1})
	if p.lan.isolated && !bridgesCallRules() {
		port.AddRtAttr(brportIsolated, []byte{1})
	}
	requests := []request{newRequest("set hairpin mode of "+p.host, unix.RTM_SETLINK, 0, msg, port)}
	for _, a := range p.addrs {
		if !a.prefix.Addr().IsLinkLocalUnicast() {
			requests = append(requests, addNeighbour(p.lan.index, a.prefix.Addr(), p.mac))
		}
	}
	return host.do(requests...)
}

// bridgesCallRules says whether what a bridge carries from port to port meets the
// rules of IP, which then keep containers apart. An isolated port would not do: a
// packet for a neighbour's published port is sent there by the bridge, not the host.
func bridgesCallRules() bool {
	return getSysctl("net/bridge/bridge-nf-call-iptables") == "1" && getSysctl("net/bridge/bridge-nf-call-ip6tables") == "1"
}

// brportIsolated is IFLA_BRPORT_ISOLATED of the kernel: two such ports of a bridge
// do not reach each other.
const brportIsolated = 33

func addNeighbour(index int32, addr netip.Addr, mac []byte) request {
	msg := &netlink.Ndmsg{Family: uint8(family(addr)), Index: uint32(index), State: netlink.NUD_STALE}
	return newRequest("add neighbour "+addr.String(), unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		msg, nl.NewRtAttr(unix.NDA_DST, addr.AsSlice()), nl.NewRtAttr(unix.NDA_LLADDR, mac))
}

// create is the one message that makes both ends: the host's is up and in the
// bridge at once. The container's cannot be set up before its peer exists. One
// queue will do, as these interfaces have no queueing; the default is one per
// possible CPU.
func (p plug) create(ns int) request {
	peer := nl.NewRtAttr(nl.VETH_INFO_PEER, nil)
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	for _, a := range p.common(p.guest) {
		peer.AddChild(a)
	}
	peer.AddRtAttr(unix.IFLA_ADDRESS, p.mac)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte("veth"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddChild(peer)

	data := append([]nl.NetlinkRequestData{flagsUp(0)}, p.common(p.host)...)
	data = append(data, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(p.lan.index))), info)
	return newRequest("create interface "+p.host, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data...)
}

func (p plug) common(name string) []nl.NetlinkRequestData {
	return []nl.NetlinkRequestData{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.lan.mtu))),
		nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, nl.Uint32Attr(1)),
		nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, nl.Uint32Attr(1)),
	}
}

// configure sets up the container's end.
func (p plug) configure(guest *rtnl) error {
	index, err := guest.indexOf(p.guest)
	if err != nil {
		return fmt.Errorf("interface %s: %w", p.guest, err)
	}
	up := newRequest("set "+p.guest+" up", unix.RTM_NEWLINK, 0, flagsUp(index))
	var addrs, routes []request
	for _, a := range p.addrs {
		addrs = append(addrs, addAddress(index, a.prefix))
		if a.defaultRoute {
			routes = append(routes, addDefaultRoute(index, a))
		}
	}
	// IPv6 addresses cannot be added before the interface is up without a notice
	// of each; routes need both.
	return guest.do(append(append([]request{up}, addrs...), routes...)...)
}

func flagsUp(index int32) *nl.IfInfomsg {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = index, unix.IFF_UP, unix.IFF_UP
	return msg
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addAddress asks for an address that is ready at once: without it, an IPv6
// address could not be used for a second or two.
func addAddress(index int32, p netip.Prefix) request {
	addr := p.Addr().AsSlice()
	msg := nl.NewIfAddrmsg(family(p.Addr()))
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	data := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFA_LOCAL, addr)}
	if p.Addr().Is4() {
		if b := broadcast(p); b.IsValid() {
			data = append(data, nl.NewRtAttr(unix.IFA_BROADCAST, b.AsSlice()))
		}
	} else {
		msg.Flags = unix.IFA_F_NODAD
	}
	return newRequest("add address "+p.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, data...)
}

func deleteAddress(index int32, p netip.Prefix) request {
	msg := nl.NewIfAddrmsg(family(p.Addr()))
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	return newRequest("delete address "+p.String(), unix.RTM_DELADDR, 0, msg, nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
}

// addDefaultRoute asks for the default route of an address's family.
func addDefaultRoute(index int32, a address) request {
	msg := nl.NewRtMsg()
	msg.Family = uint8(family(a.prefix.Addr()))
	data := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index)))}
	if a.gateway.IsValid() {
		data = append(data, nl.NewRtAttr(unix.RTA_GATEWAY, a.gateway.AsSlice()))
	} else {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	return newRequest("add default route by "+a.gateway.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data...)
}

// cutLink takes an interface down and out of its bridge, which is done at once;
// to delete it takes the kernel tens of milliseconds.
func cutLink(name string) request {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Change = unix.IFF_UP
	return newRequest("set "+name+" down", unix.RTM_SETLINK, 0, msg,
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(0)))
}

func deleteLink(name string) request {
	return newRequest("delete interface "+name, unix.RTM_DELLINK, 0,
		nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// listLinks returns the names of the host's interfaces that begin so.
func listLinks(prefix string) ([]string, error) {
	list, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, l := range list {
		if strings.HasPrefix(l.Attrs().Name, prefix) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// dump calls a function that lists until nothing came or went meanwhile.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

// deleteLinks deletes interfaces together: each alone would have to wait for all
// CPUs anew. The group is a number that nothing else uses.
func deleteLinks(host *rtnl, names []string, group uint32) error {
	if len(names) == 1 {
		return unlessGone(host.do(deleteLink(names[0])))
	}
	attr := nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group))
	const batch = 100 // what the socket's buffers hold
	for len(names) > 0 {
		n := min(len(names), batch)
		requests := make([]request, 0, n)
		for _, name := range names[:n] {
			requests = append(requests, newRequest("set the group of "+name, unix.RTM_SETLINK, 0,
				nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)), attr))
		}
		names = names[n:]
		_ = host.do(requests...) // one that is gone by itself meanwhile is no error
	}
	return unlessGone(host.do(newRequest("delete interfaces", unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), attr)))
}

// unlessGone leaves out the error of what has gone by itself: an interface does
// with its container's namespace.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
