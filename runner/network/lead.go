package network

import (
	"math/rand/v2"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// share is one of those that get the connections to a port, and its part of them.
type share struct {
	to     netip.AddrPort
	weight uint32 // not 0; those of a port together fit 32 bits
}

// weighted is a container with its part of the connections.
type weighted struct {
	target
	weight uint32
}

// lead is where what comes to a port of the host goes: by rules, or carried by this
// process if one family of addresses has to become the other.
type lead struct {
	carried bool
	shares  []share
}

// leadOf returns where a port leads that is the containers' port inner. It is a
// pure function.
func leadOf(at portAt, inner uint16, list []weighted) (l lead) {
	host := at.host.Addr()
	for _, w := range list {
		to := w.of(host)
		if w.weight == 0 || !passes(at.proto, host, to) {
			continue
		}
		l.carried = l.carried || to.Is4() != host.Is4() || host == netip.IPv6Loopback()
		l.shares = append(l.shares, share{netip.AddrPortFrom(to, inner), w.weight})
	}
	return l
}

// passes says whether what comes to an address of the host can go to another
// address: SCTP cannot be carried from one family to the other.
func passes(proto uint8, host, to netip.Addr) bool {
	return to.IsValid() && (proto != unix.IPPROTO_SCTP || to.Is4() == host.Is4())
}

// ruled are the shares that rules see to.
func (l lead) ruled() []share {
	if l.carried {
		return nil
	}
	return l.shares
}

// balance chooses where connections go that are carried. It may change at any time.
type balance struct{ shares atomic.Pointer[[]share] }

func (b *balance) set(list []share) { b.shares.Store(&list) }

func (b *balance) list() []share {
	if p := b.shares.Load(); p != nil {
		return *p
	}
	return nil
}

// pick returns the address for one more connection; it is not valid if there is
// none.
func (b *balance) pick() netip.AddrPort {
	list := b.list()
	if len(list) == 0 {
		return netip.AddrPort{}
	}
	left := rand.Uint32N(total(list)) //nolint:gosec // G404: a balance is no secret
	for _, s := range list {
		if left < s.weight {
			return s.to
		}
		left -= s.weight
	}
	return netip.AddrPort{}
}

func total(list []share) (sum uint32) {
	for _, s := range list {
		sum += s.weight
	}
	return sum
}
