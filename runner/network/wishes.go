package network

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// wish is one binding asked for.
type wish struct {
	order    int // by whom, of those that ask together
	port     network.Port
	proto    uint8
	addrs    []netip.Addr
	from, to uint16 // 0: ephemeral
}

// parse makes the bindings out. Ports that are published nowhere are shown as such.
func (t *portTable) parse(o order) (list []wish, shown network.PortMap, err error) {
	shown = network.PortMap{}
	for port, bindings := range o.asked {
		shown[port] = nil
		proto, ok := map[network.IPProtocol]uint8{
			network.TCP: unix.IPPROTO_TCP, network.UDP: unix.IPPROTO_UDP, network.SCTP: unix.IPPROTO_SCTP,
		}[port.Proto()]
		if !ok || port.Num() == 0 {
			return nil, nil, runner.Errorf(runner.ErrInvalid, "invalid port specification: %q", port)
		}
		for _, b := range bindings {
			from, to, err := hostPorts(b.HostPort)
			if err != nil {
				return nil, nil, runner.Errorf(runner.ErrInvalid, "invalid port specification: %q", b.HostPort)
			}
			addrs, err := t.hostAddrs(b.HostIP, o.publisher)
			if err != nil {
				return nil, nil, err
			}
			if addrs = o.reachable(addrs, proto); len(addrs) == 0 {
				continue
			}
			list = append(list, wish{port: port, proto: proto, addrs: addrs, from: from, to: to})
		}
	}
	return list, shown, nil
}

// parseAll makes the bindings of all orders out. Those with a certain port come
// first, so that no ephemeral one takes it from them.
func (t *portTable) parseAll(orders []order) (list []wish, shown []network.PortMap, err error) {
	for i, o := range orders {
		wishes, s, err := t.parse(o)
		if err != nil {
			return nil, nil, err
		}
		for _, w := range wishes {
			w.order = i
			list = append(list, w)
		}
		shown = append(shown, s)
	}
	slices.SortStableFunc(list, func(a, b wish) int {
		rank := func(w wish) int { // one port, a range, any
			return (int(w.to) - int(w.from) + 0xffff*b2i(w.from == 0)) << 16
		}
		return cmp.Or(cmp.Compare(rank(a)+int(a.port.Num()), rank(b)+int(b.port.Num())), cmp.Compare(a.order, b.order))
	})
	return list, shown, nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// hostPorts reads a host port: none, one or a range.
func hostPorts(s string) (from, to uint16, err error) {
	if s == "" || s == "0" {
		return 0, 0, nil
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	a, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	b, err := strconv.ParseUint(high, 10, 16)
	if err == nil && (a == 0 || b < a) {
		err = errors.New("not a range")
	}
	return uint16(a), uint16(b), err
}

// reachable leaves the addresses from which a port can lead anywhere.
func (p publisher) reachable(addrs []netip.Addr, proto uint8) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		return p.reach != nil && !p.reach(proto, a).IsValid()
	})
}

// hostAddrs returns the addresses that a host address asked for stands for.
func (t *portTable) hostAddrs(ip netip.Addr, p publisher) ([]netip.Addr, error) {
	switch ip = ip.Unmap(); {
	case !ip.IsValid() && p.host.IsValid():
		return []netip.Addr{p.host}, nil
	case !ip.IsValid() && t.v6:
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	case !ip.IsValid():
		return []netip.Addr{netip.IPv4Unspecified()}, nil
	case ip.Is6() && !t.v6:
		return nil, runner.Errorf(runner.ErrInvalid, "cannot publish a port at %s: the host has no IPv6", ip)
	case ip.Zone() != "" || ip.IsMulticast():
		return nil, runner.Errorf(runner.ErrInvalid, "cannot publish a port at %s", ip)
	}
	return []netip.Addr{ip}, nil
}
