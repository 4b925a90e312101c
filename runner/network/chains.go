package network

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// The registers of nftables: four of 16 bytes, or each as four of 4 bytes, which
// is how the parts of a concatenation lie side by side.
const (
	reg1     = unix.NFT_REG_1
	reg2     = unix.NFT_REG_2
	reg32_00 = unix.NFT_REG32_00 // the first four bytes of reg1
)

// statusDNAT is IPS_DST_NAT of the kernel: the connection was sent elsewhere than
// it was meant for.
const statusDNAT = 1 << 5

// chain is a chain of the table, as it should be.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

// chains returns those that are always there, as "table" describes them.
func (t table) chains() []chain {
	published := chain{Chain: &nftables.Chain{Name: "published", Table: t.Table}}
	for _, f := range []familySets{t.v4, t.v6} {
		published.rules = append(published.rules,
			f.dnat(f.binds, f.load(f.dst), f.loadPort(reg32_00+f.size/4)),
			f.dnat(f.ports, nil, f.loadPort(reg32_00)),
			f.choose(f.serviceBinds, f.load(f.dst), f.loadPort(reg32_00+f.size/4)),
			f.choose(f.services, nil, f.loadPort(reg32_00)))
	}
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, rules ...[]expr.Any) chain {
		return chain{&nftables.Chain{Name: name, Table: t.Table, Type: kind, Hooknum: hook, Priority: prio}, rules}
	}
	return []chain{
		published, // before those that jump to it
		base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
			rule(metaIs(expr.MetaKeyIIFNAME, expr.CmpOpNeq, ifname("lo")), t.v4.is(), loopback(t.v4.dst), verdict(expr.VerdictDrop, ""))),
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
			rule(toLocal(), verdict(expr.VerdictJump, "published"))),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest,
			rule(t.v6.is(), t.v6.load(t.v6.dst), equals(append(make([]byte, 15), 1)), verdict(expr.VerdictAccept, "")),
			rule(toLocal(), verdict(expr.VerdictJump, "published"))),
		base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
			rule(notIn(t.bridges, expr.MetaKeyOIFNAME), notIn(t.internal, expr.MetaKeyIIFNAME), verdict(expr.VerdictAccept, "")),
			rule(ctHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept, "")),
			rule(in(t.inside, expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME), verdict(expr.VerdictAccept, "")),
			rule(in(t.internal, expr.MetaKeyIIFNAME), verdict(expr.VerdictDrop, "")),
			rule(in(t.internal, expr.MetaKeyOIFNAME), verdict(expr.VerdictDrop, "")),
			rule(ctHas(expr.CtKeySTATUS, statusDNAT), verdict(expr.VerdictAccept, "")),
			verdict(expr.VerdictDrop, "")),
		base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, t.masquerade()...),
	}
}

// masquerade gives what goes out, or comes back to the containers' own networks, an
// address of the host.
func (t table) masquerade() [][]expr.Any {
	masquerade := []expr.Any{&expr.Masq{}}
	list := [][]expr.Any{rule(in(t.bridges, expr.MetaKeyOIFNAME), t.v4.is(), loopback(t.v4.src), masquerade)}
	for _, f := range []familySets{t.v4, t.v6} {
		list = append(list,
			rule(in(t.bridges, expr.MetaKeyOIFNAME), ctHas(expr.CtKeySTATUS, statusDNAT), f.from(f.subnets), masquerade),
			rule(notIn(t.bridges, expr.MetaKeyOIFNAME), f.from(f.masked), masquerade))
	}
	return list
}

// chains returns all that should be there, each after those that its rules go to.
func (r *rules) chains(t table) []chain {
	list := make([]chain, 0, len(r.services))
	for at, shares := range r.services {
		list = append(list, t.chainOf(at, shares))
	}
	return append(list, t.chains()...)
}

// drop queues the messages that delete a chain.
func (r *rules) drop(c *nftables.Chain) {
	r.conn.FlushChain(c)
	r.conn.DelChain(c)
}

// add queues the messages that make a chain what it should be, whether it is there or
// not.
func (r *rules) add(c chain) {
	added := r.conn.AddChain(c.Chain)
	r.conn.FlushChain(added)
	for _, e := range c.rules {
		r.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: added, Exprs: e, UserData: mark(e)})
	}
}

// mark is a comment of a rule that tells what the rule is: what the kernel lists is not
// comparable with what it was given.
func mark(rule []expr.Any) []byte {
	sum := fnv.New64a()
	for _, e := range rule {
		data, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
		if err != nil { // the rule itself cannot be added, either
			return nil
		}
		_, _ = sum.Write(data)
	}
	return userdata.AppendString(nil, userdata.TypeComment, fmt.Sprintf("berth %x", sum.Sum64()))
}

// elements returns what should be in the sets and maps.
func (r *rules) elements(t table) map[*nftables.Set][]nftables.SetElement {
	list := make([]segment, 0, len(r.segments))
	for _, s := range r.segments {
		list = append(list, s)
	}
	elements := t.members(list...)
	for b := range r.bindings {
		set, e := t.binding(b)
		elements[set] = append(elements[set], e)
	}
	for at := range r.services {
		set, e := t.dispatch(at)
		elements[set] = append(elements[set], e)
	}
	return elements
}

func rule(parts ...[]expr.Any) []expr.Any {
	var list []expr.Any
	for _, p := range parts {
		list = append(list, p...)
	}
	return list
}

// dnat sends what is found in a map, by the key that the loads make, to the
// address and port found.
func (f familySets) dnat(set *nftables.Set, loads ...[]expr.Any) []expr.Any {
	return rule(f.is(), rule(loads...), []expr.Any{
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto),
			RegAddrMin: reg1, RegProtoMin: reg32_00 + f.size/4, Specified: true,
		},
	})
}

// is matches packets of the family.
func (f ipFamily) is() []expr.Any {
	return metaIs(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{f.nfproto})
}

// load loads an address of the header.
func (f ipFamily) load(offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}}
}

// loadPort loads the transport protocol and the destination's port.
func (f ipFamily) loadPort(register uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Payload{DestRegister: register + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// from matches packets whose source is in a set of addresses.
func (f familySets) from(set *nftables.Set) []expr.Any {
	return rule(f.is(), f.load(f.src), []expr.Any{
		&expr.Lookup{SourceRegister: reg1, SetName: set.Name, SetID: set.ID},
	})
}

// loopback matches an IPv4 address in 127.0.0.0/8 at an offset.
func loopback(offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{127}},
	}
}

func metaIs(key expr.MetaKey, op expr.CmpOp, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg1},
		&expr.Cmp{Op: op, Register: reg1, Data: value},
	}
}

func equals(value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: value}}
}

// in matches packets whose interfaces are an element of a set.
func in(set *nftables.Set, keys ...expr.MetaKey) []expr.Any {
	return lookup(set, false, keys)
}

func notIn(set *nftables.Set, keys ...expr.MetaKey) []expr.Any {
	return lookup(set, true, keys)
}

func lookup(set *nftables.Set, invert bool, keys []expr.MetaKey) []expr.Any {
	var list []expr.Any
	for i, k := range keys {
		list = append(list, &expr.Meta{Key: k, Register: reg1 + uint32(i)*(reg2-reg1)})
	}
	return append(list, &expr.Lookup{SourceRegister: reg1, SetName: set.Name, SetID: set.ID, Invert: invert})
}

// ctHas matches packets whose connection has one of the bits.
func ctHas(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg1},
		&expr.Bitwise{
			SourceRegister: reg1, DestRegister: reg1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

// toLocal matches packets to an address of the host.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
