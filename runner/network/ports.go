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
	v6    bool // the host has IPv6
	carry *carrier

	mu   sync.Mutex
	held map[portKey][]*reservation
	last uint16 // the ephemeral port that was given last
}

type portKey struct {
	proto uint8
	port  uint16
}

// reservation is one port of the host, at one address or at all of a family, that
// a container or a service has.
type reservation struct {
	portAt
	holder string // for who wants the port, too
	hold   *hold  // nil if it could not be bound
}

// published is a reserved port of the host with the port of containers that it
// leads to.
type published struct {
	*reservation
	inner uint16
}

func newPortTable(v6 bool, carry *carrier) *portTable {
	return &portTable{v6: v6, carry: carry, held: map[portKey][]*reservation{}}
}

// bindings returns what of a container's ports is a rule: all but what this process
// carries.
func bindings(list []published, to target) (out []binding) {
	for _, r := range to.leads(list) {
		for _, s := range r.ruled() {
			out = append(out, binding{r.proto, r.host, s.to})
		}
	}
	return out
}

func reservations(list []published) (out []*reservation) {
	for _, p := range list {
		out = append(out, p.reservation)
	}
	return out
}

// publisher is who asks for ports.
type publisher struct {
	holder string     // for others, such as "container web"
	host   netip.Addr // the address of the host for who names none; not valid: all
	// reach is where what comes to an address of the host goes: a port for which it
	// is not valid is not published there. nil: it is published everywhere.
	reach func(proto uint8, host netip.Addr) netip.Addr
}

// publisher makes one of a container with a target.
func (l target) publisher(name string) publisher {
	return publisher{holder: "container " + name, host: l.host, reach: func(proto uint8, host netip.Addr) netip.Addr {
		if to := l.of(host); passes(proto, host, to) {
			return to
		}
		return netip.Addr{}
	}}
}

// of returns where what comes to an address of the host goes: to the target's
// address of the same family, or the only one it has.
func (l target) of(host netip.Addr) netip.Addr {
	if host.Is4() && l.v4.IsValid() || !l.v6.IsValid() {
		return l.v4
	}
	return l.v6
}

// order is what a publisher asks for.
type order struct {
	publisher
	asked network.PortMap
}

// allotment is what those who ask together are to have, and what changes by that.
// Either undo or done must follow.
type allotment struct {
	table       *portTable
	kept        []*reservation // that no wish has got yet
	fresh, gone []*reservation
	given       []given // one for each order
}

// given are the ports that somebody has, and how inspect shows them.
type given struct {
	ports []published
	shown network.PortMap
}

// undo gives up what is new.
func (a *allotment) undo() {
	a.table.release(a.fresh)
	for _, r := range a.gone {
		r.hold.reclaim()
	}
}

// done gives up what is gone.
func (a *allotment) done() { a.table.release(a.gone) }

// allot reserves all ports asked for, or none: those of them that the publishers had
// stay reserved. The others that they had are given up when the allotment is done.
func (t *portTable) allot(orders []order, had []published) (*allotment, error) {
	wishes, shown, err := t.parseAll(orders)
	if err != nil {
		return nil, err
	}
	a := &allotment{table: t}
	for _, s := range shown {
		a.given = append(a.given, given{shown: s})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	a.sort(wishes, had)
	for _, w := range wishes {
		list, err := t.grant(w, a, orders[w.order].publisher)
		if err != nil {
			t.releaseLocked(a.fresh)
			for _, r := range a.gone {
				r.hold.reclaim()
			}
			return nil, err
		}
		g := &a.given[w.order]
		for _, r := range list {
			g.ports = append(g.ports, published{r, w.port.Num()})
			g.shown[w.port] = append(g.shown[w.port], network.PortBinding{
				HostIP: r.host.Addr(), HostPort: strconv.Itoa(int(r.host.Port())),
			})
		}
	}
	return a, nil
}

// sort divides what the publisher has had into what it keeps, and what is gone.
func (a *allotment) sort(wishes []wish, had []published) {
	for _, h := range had {
		wanted := slices.ContainsFunc(wishes, func(w wish) bool {
			return w.from == w.to && h.proto == w.proto && h.host.Port() == w.from && slices.Contains(w.addrs, h.host.Addr())
		})
		if wanted {
			a.kept = append(a.kept, h.reservation)
		} else {
			a.gone = append(a.gone, h.reservation)
		}
	}
}

// grant reserves the first port of a wish that is free at all its addresses.
func (t *portTable) grant(w wish, a *allotment, p publisher) ([]*reservation, error) {
	if w.from != 0 {
		var first error
		for port := int(w.from); port <= int(w.to); port++ {
			list, err := t.grantPort(w, uint16(port), a, p)
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
		list, err := t.grantPort(w, t.last, a, p)
		if err == nil || !errors.Is(err, errTaken) {
			return list, err
		}
	}
	return nil, fmt.Errorf("all ports of the ephemeral range %d-%d are taken", low, high)
}

// errTaken says that another port may be free.
var errTaken = errors.New("taken")

// grantPort reserves a port at all addresses of a wish.
func (t *portTable) grantPort(w wish, port uint16, a *allotment, p publisher) (list []*reservation, err error) {
	before := len(a.fresh)
	for _, addr := range w.addrs {
		at := portAt{w.proto, netip.AddrPortFrom(addr, port)}
		r := a.keeps(at)
		if r != nil {
			r.holder = p.holder // another service of the owner may have had it
		} else {
			if r, err = t.reserve(at, w.port.Num(), a.gone, p); err == nil {
				a.fresh = append(a.fresh, r)
			}
		}
		if err != nil {
			t.releaseLocked(a.fresh[before:])
			a.fresh = a.fresh[:before]
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// keeps returns a port that the publisher has had and is to keep, once.
func (a *allotment) keeps(at portAt) *reservation {
	for i, r := range a.kept {
		if r.portAt == at {
			a.kept = slices.Delete(a.kept, i, i+1)
			return r
		}
	}
	return nil
}

// reserve reserves a port that nobody has but the publisher, who will give up what
// he has of it.
func (t *portTable) reserve(at portAt, inner uint16, gone []*reservation, p publisher) (*reservation, error) {
	var beside []*reservation
	for _, other := range t.held[at.key()] {
		switch {
		case !at.excludes(other.portAt):
		case slices.Contains(gone, other):
			beside = append(beside, other)
		default:
			return nil, runner.Errorf(errTaken, "Bind for %s failed: port is already allocated by %s", at.host, other.holder)
		}
	}
	for _, other := range beside {
		if err := other.hold.lend(); err != nil {
			return nil, err
		}
	}
	h, err := reserve(at, len(beside) > 0, t.carry)
	if err != nil {
		for _, other := range beside {
			other.hold.reclaim()
		}
		return nil, p.inUse(at, inner, err)
	}
	r := &reservation{at, p.holder, h}
	t.held[at.key()] = append(t.held[at.key()], r)
	return r, nil
}

func (at portAt) key() portKey { return portKey{at.proto, at.host.Port()} }

// excludes says whether two ports of the same number and protocol cannot both be
// had.
func (at portAt) excludes(other portAt) bool {
	a, o := at.host.Addr(), other.host.Addr()
	return a.Is4() == o.Is4() && (a == o || a.IsUnspecified() || o.IsUnspecified())
}

// adopt reserves the ports that a publisher has already. What cannot be bound is in
// the table all the same, and among the errors.
func (t *portTable) adopt(ports network.PortMap, p publisher) (list []published, errs []error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for port, shown := range ports {
		for _, b := range shown {
			wishes, _, err := t.parse(order{p, network.PortMap{port: {b}}})
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, w := range wishes { // one, or none if it leads nowhere
				for _, addr := range w.addrs {
					r := &reservation{portAt{w.proto, netip.AddrPortFrom(addr, w.from)}, p.holder, nil}
					if r.hold, err = reserve(r.portAt, false, t.carry); err != nil {
						errs = append(errs, p.inUse(r.portAt, port.Num(), err))
					}
					t.held[r.key()] = append(t.held[r.key()], r)
					list = append(list, published{r, port.Num()})
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

// close frees all ports.
func (t *portTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, list := range t.held {
		t.releaseLocked(slices.Clone(list))
	}
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
func (p publisher) inUse(at portAt, inner uint16, err error) error {
	to := " " + at.host.String()
	if p.reach != nil {
		to = fmt.Sprintf(" for %s:%s", at.host, netip.AddrPortFrom(p.reach(at.proto, at.host.Addr()), inner))
	}
	to += "/" + protoName(at.proto)
	if !errors.Is(err, unix.EADDRINUSE) {
		if errno, ok := errors.AsType[unix.Errno](err); ok {
			err = errno
		}
		return fmt.Errorf("failed to bind host port%s: %w", to, err)
	}
	by := ""
	if p := findHolder(at); p != "" {
		by = " by " + p
	}
	return runner.Errorf(errTaken, "failed to bind host port%s: address already in use%s", to, by)
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
