package network

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetFlows makes the kernel forget UDP flows of published ports: those that lead
// to a container that is gone, or those that do not lead to one that is new. To the kernel a client that goes on sending is one flow, which
// stays with the address that its first packet was sent to: with none, if that
// was before the port was published, or with a container that is gone.
func (m *Manager) forgetFlows(list []published, to target, gone bool) {
	f := flowFilter{gone: gone, targets: []netip.Addr{to.v4, to.v6}, ports: map[uint16]bool{}}
	for _, r := range list {
		if r.proto == unix.IPPROTO_UDP {
			f.ports[r.host.Port()] = true
		}
	}
	if len(f.ports) == 0 {
		return
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f); err != nil {
			m.log.Warn("UDP flows of before may go astray", "error", err)
		}
	}
}

// flowFilter chooses UDP flows to published ports: those that lead to the
// container if it is gone, or else those that do not.
type flowFilter struct {
	gone    bool
	targets []netip.Addr
	ports   map[uint16]bool
}

// MatchConntrackFlow is called by the package netlink.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && f.ports[flow.Forward.DstPort] &&
		f.leads(flow.Reverse.SrcIP) == f.gone
}

func (f flowFilter) leads(ip net.IP) bool {
	addr, _ := netip.AddrFromSlice(ip)
	for _, t := range f.targets {
		if addr.Unmap() == t {
			return true
		}
	}
	return false
}

// forgetStrays makes the kernel forget UDP flows to ports of services that lead to no
// container that is there: to nobody, as the port led nowhere when they began, or to
// one that is gone.
func (m *Manager) forgetStrays() {
	f := strays{ports: map[uint16]bool{}, alive: map[netip.Addr]bool{}}
	m.mu.Lock()
	for _, o := range m.services {
		for _, p := range o.ports() {
			if p.proto == unix.IPPROTO_UDP {
				f.ports[p.host.Port()] = true
			}
		}
	}
	for _, a := range m.attached {
		for _, addr := range a.addrs() {
			f.alive[addr] = true
		}
	}
	m.mu.Unlock()
	if len(f.ports) == 0 {
		return
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f); err != nil {
			m.log.Warn("UDP flows of before may go astray", "error", err)
		}
	}
}

type strays struct {
	ports map[uint16]bool
	alive map[netip.Addr]bool
}

// MatchConntrackFlow is called by the package netlink.
func (f strays) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	addr, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return flow.Forward.Protocol == unix.IPPROTO_UDP && f.ports[flow.Forward.DstPort] && !f.alive[addr.Unmap()]
}
