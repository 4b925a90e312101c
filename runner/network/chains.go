package network

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
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

// addTable queues the messages that make the table, as "table" describes it.
func (r *rules) addTable() {
	t := layout(r.name)
	r.conn.AddTable(t.Table)
	r.addSets(t)
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) func(...[]expr.Any) {
		c := r.conn.AddChain(&nftables.Chain{Name: name, Table: t.Table, Type: kind, Hooknum: hook, Priority: prio})
		return func(parts ...[]expr.Any) {
			r.conn.AddRule(&nftables.Rule{Table: t.Table, Chain: c, Exprs: rule(parts...)})
		}
	}
	published := chain("published", "", nil, nil)
	for _, f := range []familySets{t.v4, t.v6} {
		published(f.dnat(f.binds, f.load(f.dst), f.loadPort(reg32_00+f.size/4)))
		published(f.dnat(f.ports, nil, f.loadPort(reg32_00)))
		published(f.choose(f.serviceBinds, f.load(f.dst), f.loadPort(reg32_00+f.size/4)))
		published(f.choose(f.services, nil, f.loadPort(reg32_00)))
	}

	raw := chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	raw(metaIs(expr.MetaKeyIIFNAME, expr.CmpOpNeq, ifname("lo")), t.v4.is(), loopback(t.v4.dst), verdict(expr.VerdictDrop, ""))

	prerouting := chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	prerouting(toLocal(), verdict(expr.VerdictJump, "published"))

	output := chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	output(t.v6.is(), t.v6.load(t.v6.dst), equals(append(make([]byte, 15), 1)), verdict(expr.VerdictAccept, ""))
	output(toLocal(), verdict(expr.VerdictJump, "published"))

	forward := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	forward(notIn(t.bridges, expr.MetaKeyOIFNAME), notIn(t.internal, expr.MetaKeyIIFNAME), verdict(expr.VerdictAccept, ""))
	forward(ctHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept, ""))
	forward(in(t.inside, expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME), verdict(expr.VerdictAccept, ""))
	forward(in(t.internal, expr.MetaKeyIIFNAME), verdict(expr.VerdictDrop, ""))
	forward(in(t.internal, expr.MetaKeyOIFNAME), verdict(expr.VerdictDrop, ""))
	forward(ctHas(expr.CtKeySTATUS, statusDNAT), verdict(expr.VerdictAccept, ""))
	forward(verdict(expr.VerdictDrop, ""))

	masquerade := []expr.Any{&expr.Masq{}}
	postrouting := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	postrouting(in(t.bridges, expr.MetaKeyOIFNAME), t.v4.is(), loopback(t.v4.src), masquerade)
	for _, f := range []familySets{t.v4, t.v6} {
		postrouting(in(t.bridges, expr.MetaKeyOIFNAME), ctHas(expr.CtKeySTATUS, statusDNAT), f.from(f.subnets), masquerade)
		postrouting(notIn(t.bridges, expr.MetaKeyOIFNAME), f.from(f.masked), masquerade)
	}
}

// addSets queues the sets and maps with their elements.
func (r *rules) addSets(t table) {
	list := make([]segment, 0, len(r.segments))
	for _, s := range r.segments {
		list = append(list, s)
	}
	members := t.members(list...)
	for _, s := range t.sets() {
		// An error would be of an anonymous set, or of a length beyond bounds.
		_ = r.conn.AddSet(s, nil)
		for chunk := range chunks(members[s]) {
			_ = r.conn.SetAddElements(s, chunk)
		}
	}
	bindings := make([]binding, 0, len(r.bindings))
	for b := range r.bindings {
		bindings = append(bindings, b)
	}
	for set, elements := range t.elements(bindings) {
		_ = r.conn.SetAddElements(set, elements)
	}
	_ = r.queueLeads(t, r.services)
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
