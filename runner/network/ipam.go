package network

import (
	"hash/fnv"
	"net/netip"

	"github.com/berth-registry/berth/runner"
)

const (
	// leaving is the holder of an address whose interface is about to go.
	leaving = ""
	// gatewayHolder is who has the gateway's address.
	gatewayHolder = "the gateway"
)

// pool gives out the addresses of a subnet, each to one holder at a time. The
// next address given is the lowest free one after the last: an address rests as
// long as can be before it is given again. It is not safe for concurrent use.
type pool struct {
	prefix  netip.Prefix
	choice  netip.Prefix          // what next gives is of this part
	used    map[netip.Addr]string // holder: the container's name
	last    netip.Addr
	gateway netip.Addr // not valid: the network has none
}

// newPool returns the pool of a subnet whose gateway has its first address.
func newPool(prefix netip.Prefix) *pool {
	prefix = prefix.Masked()
	return newPoolOf(addressing{Subnet: prefix, Gateway: prefix.Addr().Next()})
}

// newPoolOf returns the pool of what a network says of a family.
func newPoolOf(a addressing) *pool {
	p := &pool{prefix: a.Subnet, choice: a.Subnet, gateway: a.Gateway, used: map[netip.Addr]string{}}
	if a.Range.IsValid() {
		p.choice = a.Range
	}
	if p.last = p.choice.Addr(); p.last != p.prefix.Addr() {
		p.last = p.last.Prev()
	}
	if a.Gateway.IsValid() {
		p.used[a.Gateway] = gatewayHolder
	}
	for name, addr := range a.Aux {
		p.used[addr] = "the auxiliary address " + name
	}
	return p
}

// take gives a certain address.
func (p *pool) take(addr netip.Addr, holder string) error {
	if !p.prefix.Contains(addr) {
		return runner.Errorf(runner.ErrInvalid, "no configured subnet contains IP address %s", addr)
	}
	if addr == p.prefix.Addr() || addr == broadcast(p.prefix) {
		return runner.Errorf(runner.ErrInvalid, "address %s is that of the network %s itself", addr, p.prefix)
	}
	by, ok := p.used[addr]
	if ok && by == leaving {
		return runner.Errorf(runner.ErrUnavailable, "Address already in use: the container that had %s has just ended", addr)
	}
	if ok {
		return runner.Errorf(runner.ErrForbidden, "Address already in use: %s is that of %s", addr, by)
	}
	p.used[addr] = holder
	return nil
}

// next gives the next free address.
func (p *pool) next(holder string) (netip.Addr, error) {
	network, last := p.prefix.Addr(), broadcast(p.prefix)
	addr := p.last
	// Each turn meets another used address, so one of these is free unless none is.
	for range len(p.used) + 3 {
		addr = addr.Next()
		if !addr.IsValid() || !p.choice.Contains(addr) {
			addr = p.choice.Addr()
		}
		if _, ok := p.used[addr]; ok || addr == network || addr == last {
			continue
		}
		p.used[addr], p.last = holder, addr
		return addr, nil
	}
	return netip.Addr{}, runner.Errorf(runner.ErrUnavailable, "no available addresses in %s", p.choice)
}

// beside gives the address that has the host part of an address of another
// pool, or the next free one where that is taken or does not exist.
func (p *pool) beside(addr netip.Addr, of *pool, holder string) (netip.Addr, error) {
	bytes, base := p.prefix.Addr().As16(), of.prefix.Addr().AsSlice()
	for i, b := range addr.AsSlice() {
		bytes[16-len(base)+i] |= b ^ base[i]
	}
	twin := netip.AddrFrom16(bytes)
	if p.choice.Contains(twin) && p.take(twin, holder) == nil {
		return twin, nil
	}
	return p.next(holder)
}

// adopt marks an address as used by a container that was there before.
func (p *pool) adopt(addr netip.Addr, holder string) error {
	if err := p.take(addr, holder); err != nil {
		return err
	}
	if p.choice.Contains(addr) && p.last.Less(addr) {
		p.last = addr
	}
	return nil
}

// leave keeps an address that its holder needs no more from being given.
func (p *pool) leave(addr netip.Addr) { p.used[addr] = leaving }

func (p *pool) release(addr netip.Addr) { delete(p.used, addr) }

// broadcast returns the last address of an IPv4 subnet; IPv6 has none that is
// kept for that, and the zero Addr is returned.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() || p.Bits() > 30 {
		return netip.Addr{}
	}
	return lastAddr(p)
}

func lastAddr(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(bytes)*8; i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// macOf returns the hardware address that is made of an IPv4 address, as Docker
// makes it: it needs no record, and neighbours that remember it are right.
func macOf(addr netip.Addr) []byte {
	ip := addr.AsSlice()
	return append([]byte{0x02, 0x42}, ip[len(ip)-4:]...)
}

// macOfID returns a hardware address that is made of an ID, for who has no IPv4
// address.
func macOfID(id string) []byte {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(id)) // never fails
	return sum.Sum([]byte{0x02, 0x42})
}
