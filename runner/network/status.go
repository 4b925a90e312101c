package network

import (
	"math"
	"net/netip"

	"github.com/moby/moby/api/types/network"
)

// status counts the addresses of the network's subnets. It is nil if the network
// has none. The manager must be locked.
func (n *lan) status() *network.Status {
	subnets := network.SubnetStatuses{}
	for _, p := range []*pool{n.v4, n.v6} {
		if p != nil {
			subnets[p.prefix] = p.count()
		}
	}
	if len(subnets) == 0 {
		return nil
	}
	return &network.Status{IPAM: network.IPAMStatus{Subnets: subnets}}
}

// count tells how many addresses of the subnet cannot be given, and how many of
// those that next chooses from can. Those of the subnet itself are never given.
func (p *pool) count() network.SubnetStatus {
	inUse, taken := uint64(len(p.used)), uint64(0)
	for addr := range p.used {
		if p.choice.Contains(addr) {
			taken++
		}
	}
	for _, addr := range []netip.Addr{p.prefix.Addr(), broadcast(p.prefix)} {
		if _, counted := p.used[addr]; counted || !addr.IsValid() {
			continue
		}
		inUse++
		if p.choice.Contains(addr) {
			taken++
		}
	}
	return network.SubnetStatus{IPsInUse: inUse, DynamicIPsAvailable: free(p.choice, taken)}
}

// free is how many addresses of a subnet are left, at most 2^64 - 1.
func free(p netip.Prefix, taken uint64) uint64 {
	switch bits := p.Addr().BitLen() - p.Bits(); {
	case bits > 64 || bits == 64 && taken == 0:
		return math.MaxUint64
	case bits == 64:
		return math.MaxUint64 - taken + 1
	default:
		return uint64(1)<<bits - taken
	}
}
