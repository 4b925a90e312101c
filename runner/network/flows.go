package network

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forgetFlows makes the kernel forget flows of published ports: those that lead to a
// container that is gone, or those of UDP that do not lead to one that is new. To the
// kernel a client of UDP that goes on sending is one flow, which stays with the
// address that its first packet was sent to: with none, if that was before the port
// was published, or with a container that is gone. So is a connection over TCP whose
// client comes from the same port once more.
func (m *Manager) forgetFlows(list []published, to target, gone bool) {
	m.forget(list, func(addr netip.Addr) bool { return isOneOf(addr, []netip.Addr{to.v4, to.v6}) == gone }, gone)
}

// forgetStrays makes the kernel forget flows to ports of services that lead to no
// container that is there: to nobody, as the port led nowhere when they began, or to
// one that is gone.
func (m *Manager) forgetStrays() {
	m.mu.Lock()
	var list []published
	for _, o := range m.services {
		list = append(list, o.ports()...)
	}
	m.mu.Unlock()
	m.forget(list, func(addr netip.Addr) bool { // asked late: another may have come meanwhile
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, a := range m.attached {
			if slices.Contains(a.addrs(), addr) {
				return false
			}
		}
		return true
	}, true)
}

// forgetResets has the kernel remember for a second, and not for ten, a flow that was
// reset. To the kernel a connection that a client begins from the same port meanwhile is
// the same flow if the server has reset it: it leads to the backend that the one before
// led to, which may have no more traffic, or be about to end, and refuses it. A busy
// client comes to the same port again after a few seconds.
func (m *Manager) forgetResets() {
	const name = "net/netfilter/nf_conntrack_tcp_timeout_close"
	if before, err := strconv.Atoi(getSysctl(name)); err == nil && before <= 1 {
		return
	}
	if err := setSysctl(name, "1"); err != nil {
		m.log.Warn("a client whose connection was reset may be led to where that led to for some seconds", "error", err)
		return
	}
	m.log.Info("flows that were reset are forgotten after a second; services need it", "sysctl", name)
}

// forget makes the kernel forget flows from anybody to these ports of the host that
// lead to the addresses chosen: those of UDP, and of all protocols if that is said.
func (m *Manager) forget(list []published, chosen func(to netip.Addr) bool, all bool) {
	f := flows{ports: map[portKey]bool{}, local: map[netip.Addr]bool{}, chosen: chosen}
	for _, r := range list {
		if all || r.proto == unix.IPPROTO_UDP {
			f.ports[r.key()] = true
		}
	}
	if len(f.ports) == 0 {
		return
	}
	// One that has been forgotten may have begun anew, before another who found it,
	// too, forgets it.
	m.forgetting.Lock()
	defer m.forgetting.Unlock()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		m.log.Warn("connections of before may go astray", "error", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			f.local[p.Addr().Unmap()] = true
		}
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if err := f.forget(family); err != nil {
			m.log.Warn("connections of before may go astray", "error", err)
		}
	}
}

// forget makes the kernel forget the flows of a family that are chosen.
func (f flows) forget(family netlink.InetFamily) error {
	all, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // those that are there are forgotten
		return err
	}
	var errs []error
	for _, flow := range all {
		if f.chooses(flow) {
			if err := forgetFlow(family, flow); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// forgetFlow makes the kernel forget a flow. It is named by how its answers come, from
// where it leads to: by how it began it would be the same as one that a client has begun
// from the same port meanwhile, and that leads elsewhere.
func forgetFlow(family netlink.InetFamily, flow *netlink.ConntrackFlow) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family), Version: nl.NFNETLINK_V0})
	from, to := []byte(flow.Reverse.SrcIP.To4()), []byte(flow.Reverse.DstIP.To4())
	srcAttr, dstAttr := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if family == unix.AF_INET6 {
		from, to = flow.Reverse.SrcIP.To16(), flow.Reverse.DstIP.To16()
		srcAttr, dstAttr = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	port := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_REPLY, nil)
	ip := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	ip.AddRtAttr(srcAttr, from)
	ip.AddRtAttr(dstAttr, to)
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{flow.Reverse.Protocol})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, port(flow.Reverse.SrcPort))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, port(flow.Reverse.DstPort))
	req.AddData(tuple)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// flows chooses flows to published ports, and not those of containers to the same
// port of other hosts.
type flows struct {
	ports  map[portKey]bool
	local  map[netip.Addr]bool // addresses of the host
	chosen func(to netip.Addr) bool
}

func (f flows) chooses(flow *netlink.ConntrackFlow) bool {
	if !f.ports[portKey{flow.Forward.Protocol, flow.Forward.DstPort}] {
		return false
	}
	at, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	to, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	at, to = at.Unmap(), to.Unmap()
	if at == to && flow.Forward.Protocol != unix.IPPROTO_UDP { // it is carried, or refused
		return false
	}
	return (f.local[at] || at.IsLoopback()) && f.chosen(to)
}
