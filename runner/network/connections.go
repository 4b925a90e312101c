package network

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Connections counts the connections that lead to a container by published ports,
// its own and those of services: those of TCP that are established, and clients of
// UDP that were heard of in the last ten seconds. None lead to a container that is
// not connected.
func (m *Manager) Connections(containerID string) (int, error) {
	m.mu.Lock()
	addrs := m.attached[containerID].addrs()
	m.mu.Unlock()
	if len(addrs) == 0 {
		return 0, nil
	}
	n := m.carry.count(addrs...)
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := dump(func() ([]*netlink.ConntrackFlow, error) {
			return netlink.ConntrackTableList(netlink.ConntrackTable, family)
		})
		if err != nil {
			return 0, fmt.Errorf("list connections: %w", err)
		}
		for _, f := range flows {
			n += b2i(leadsTo(f, addrs) && alive(f))
		}
	}
	return n, nil
}

// leadsTo says whether a flow was meant for another address, and has been sent to
// one of these.
func leadsTo(f *netlink.ConntrackFlow, addrs []netip.Addr) bool {
	to, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	return isOneOf(to.Unmap(), addrs) && !f.Forward.DstIP.Equal(f.Reverse.SrcIP)
}

const (
	tcpEstablished = 3  // TCP_CONNTRACK_ESTABLISHED of the kernel
	udpRecent      = 10 // seconds
)

// alive says whether a connection is established, or was used recently.
func alive(f *netlink.ConntrackFlow) bool {
	switch f.Forward.Protocol {
	case unix.IPPROTO_TCP:
		info, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
		return ok && info.State == tcpEstablished
	case unix.IPPROTO_UDP:
		// The kernel keeps a flow with answers longer than one without.
		left := int(f.TimeOut)
		for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
			if whole, err := strconv.Atoi(getSysctl("net/netfilter/" + name)); err == nil && left <= whole && left > whole-udpRecent {
				return true
			}
		}
		return false
	default: // SCTP: until it has ended
		return true
	}
}
