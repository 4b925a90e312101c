package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// portTable knows which ports of the host are published, and by whom.
type portTable struct {
	v6 bool // the host has IPv6

	mu   sync.Mutex
	held map[portKey][]*reservation
	last uint16 // the ephemeral port that was given last
}

type portKey struct {
	proto uint8
	port  uint16
}

// reservation is one port of the host, at one address or at all of a family, that
// a container has.
type reservation struct {
	binding
	holder string
	hold   *hold
}

func newPortTable(v6 bool) *portTable {
	return &portTable{v6: v6, held: map[portKey][]*reservation{}}
}

// bindings returns what of the reservations is a rule: all but what this process
// carries.
func bindings(list []*reservation) []binding {
	var out []binding
	for _, r := range list {
		if !r.carried() {
			out = append(out, r.binding)
		}
	}
	return out
}

// wish is one binding asked for.
type wish struct {
	port     network.Port
	proto    uint8
	addrs    []netip.Addr
	from, to uint16 // 0: ephemeral
}

// allocate reserves all ports asked for, or none. It returns them also as inspect
// shows them. If they lead nowhere, none is published.
func (t *portTable) allocate(holder string, asked network.PortMap, l target) ([]*reservation, network.PortMap, error) {
	wishes, shown, err := t.parse(asked, l)
	if err != nil {
		return nil, nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var got []*reservation
	for _, w := range wishes {
		list, err := t.grant(w, holder, l)
		if err != nil {
			t.releaseLocked(got)
			return nil, nil, err
		}
		got = append(got, list...)
		for _, r := range list {
			shown[w.port] = append(shown[w.port], network.PortBinding{
				HostIP: r.host.Addr(), HostPort: strconv.Itoa(int(r.host.Port())),
			})
		}
	}
	return got, shown, nil
}

// parse makes the bindings out. Those with a certain port come first, so that no
// ephemeral one takes it from them.
func (t *portTable) parse(asked network.PortMap, l target) ([]wish, network.PortMap, error) {
	var list []wish
	shown := network.PortMap{}
	for port, bindings := range asked {
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
			addrs, err := t.hostAddrs(b.HostIP, l)
			if err != nil {
				return nil, nil, err
			}
			if addrs = l.reachable(addrs, proto); len(addrs) == 0 {
				continue
			}
			list = append(list, wish{port: port, proto: proto, addrs: addrs, from: from, to: to})
		}
	}
	slices.SortStableFunc(list, func(a, b wish) int {
		rank := func(w wish) int { // one port, a range, any
			return (int(w.to) - int(w.from) + 0xffff*b2i(w.from == 0)) << 16
		}
		return rank(a) + int(a.port.Num()) - rank(b) - int(b.port.Num())
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

// reachable leaves the addresses from which a port can lead to the target: SCTP
// cannot be carried from one family to the other.
func (l target) reachable(addrs []netip.Addr, proto uint8) []netip.Addr {
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		to := l.of(a)
		return !to.IsValid() || proto == unix.IPPROTO_SCTP && to.Is4() != a.Is4()
	})
}

// of returns where what comes to an address of the host goes: to the target's
// address of the same family, or the only one it has.
func (l target) of(host netip.Addr) netip.Addr {
	if host.Is4() && l.v4.IsValid() || !l.v6.IsValid() {
		return l.v4
	}
	return l.v6
}

// hostAddrs returns the addresses that a host address asked for stands for.
func (t *portTable) hostAddrs(ip netip.Addr, l target) ([]netip.Addr, error) {
	switch ip = ip.Unmap(); {
	case !ip.IsValid() && l.host.IsValid():
		return []netip.Addr{l.host}, nil
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

// grant reserves the first port of a wish that is free at all its addresses.
func (t *portTable) grant(w wish, holder string, l target) ([]*reservation, error) {
	if w.from != 0 {
		var first error
		for port := int(w.from); port <= int(w.to); port++ {
			list, err := t.grantPort(w, uint16(port), holder, l)
			if err == nil {
				return list, nil
			}
			if first == nil {
				first = err
			}
		}
		if w.from != w.to {
			first = fmt.Errorf("all ports of %d-%d are taken: %w", w.from, w.to, first)
		}
		return nil, first
	}
	low, high := ephemeralRange()
	for range int(high) - int(low) + 1 {
		if t.last++; t.last < low || t.last > high {
			t.last = low
		}
		list, err := t.grantPort(w, t.last, holder, l)
		if err == nil || !errors.Is(err, errTaken) {
			return list, err
		}
	}
	return nil, fmt.Errorf("all ports of the ephemeral range %d-%d are taken", low, high)
}

// errTaken says that another port may be free.
var errTaken = errors.New("taken")

// at is a wish at one of its addresses, not reserved yet.
func (w wish) at(addr netip.Addr, port uint16, holder string, l target) *reservation {
	return &reservation{holder: holder, binding: binding{
		proto: w.proto, host: netip.AddrPortFrom(addr, port), to: netip.AddrPortFrom(l.of(addr), w.port.Num()),
	}}
}

// grantPort reserves a port at all addresses of a wish.
func (t *portTable) grantPort(w wish, port uint16, holder string, l target) (list []*reservation, err error) {
	for _, addr := range w.addrs {
		r := w.at(addr, port, holder, l)
		if other := t.holder(r); other != nil {
			err = runner.Errorf(errTaken, "Bind for %s failed: port is already allocated by container %s", r.host, other.holder)
		} else {
			r.hold, err = reserve(r.binding)
		}
		if err != nil {
			t.releaseLocked(list)
			return nil, err
		}
		t.held[r.key()] = append(t.held[r.key()], r)
		list = append(list, r)
	}
	return list, nil
}

func (b binding) key() portKey { return portKey{b.proto, b.host.Port()} }

// holder returns the reservation that excludes another.
func (t *portTable) holder(r *reservation) *reservation {
	a := r.host.Addr()
	for _, other := range t.held[r.key()] {
		o := other.host.Addr()
		if a.Is4() == o.Is4() && (a == o || a.IsUnspecified() || o.IsUnspecified()) {
			return other
		}
	}
	return nil
}

// adopt reserves the ports that a container has already. What cannot be bound is
// in the table all the same, and among the errors.
func (t *portTable) adopt(holder string, ports network.PortMap, l target) (list []*reservation, errs []error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for port, shown := range ports {
		for _, b := range shown {
			wishes, _, err := t.parse(network.PortMap{port: {b}}, l)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, w := range wishes { // one, or none if it leads nowhere
				for _, addr := range w.addrs {
					r := w.at(addr, w.from, holder, l)
					if r.hold, err = reserve(r.binding); err != nil {
						errs = append(errs, err)
					}
					t.held[r.key()] = append(t.held[r.key()], r)
					list = append(list, r)
				}
			}
		}
	}
	return list, errs
}

// release frees ports.
func (t *portTable) release(list []*reservation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(list)
}

func (t *portTable) releaseLocked(list []*reservation) {
	for _, r := range list {
		r.hold.close()
		rest := slices.DeleteFunc(t.held[r.key()], func(o *reservation) bool { return o == r })
		if len(rest) == 0 {
			delete(t.held, r.key())
		} else {
			t.held[r.key()] = rest
		}
	}
}

// ephemeralRange returns the ports that the host gives to those who do not care.
func ephemeralRange() (low, high uint16) {
	f := strings.Fields(getSysctl("net/ipv4/ip_local_port_range"))
	if len(f) == 2 {
		a, aerr := strconv.ParseUint(f[0], 10, 16)
		b, berr := strconv.ParseUint(f[1], 10, 16)
		if aerr == nil && berr == nil && 0 < a && a <= b {
			return uint16(a), uint16(b)
		}
	}
	return 32768, 60999
}

// inUse returns the error of a port that a process of the host has.
func inUse(b binding, err error) error {
	to := fmt.Sprintf("%s:%s/%s", b.host, b.to, protoName(b.proto))
	if !errors.Is(err, unix.EADDRINUSE) {
		if errno, ok := errors.AsType[unix.Errno](err); ok {
			err = errno
		}
		return fmt.Errorf("failed to bind host port for %s: %w", to, err)
	}
	by := ""
	if p := findHolder(b); p != "" {
		by = " by " + p
	}
	return runner.Errorf(errTaken, "failed to bind host port for %s: address already in use%s", to, by)
}

func protoName(proto uint8) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	default:
		return "sctp"
	}
}
