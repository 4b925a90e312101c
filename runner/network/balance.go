package network

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// lead has ports of services lead where is said, and those that are gone nowhere, in
// one transaction. A port has its chain and its element of the maps as long as it is
// held, also while it leads nowhere: so a change replaces the rules of a chain and
// nothing else, and each packet meets either the old ones or the new.
func (r *rules) lead(to map[portAt][]share, gone []portAt) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := maps.Clone(to)
	maps.DeleteFunc(changed, func(at portAt, shares []share) bool {
		now, there := r.services[at]
		return there && slices.Equal(now, shares)
	})
	if len(changed)+len(gone) == 0 {
		return nil
	}
	before := maps.Clone(r.services)
	maps.Copy(r.services, changed)
	for _, at := range gone {
		delete(r.services, at)
	}
	t := layout(r.name)
	err := r.queueLeads(t, changed)
	if err == nil {
		err = r.queueGone(t, gone)
	}
	if err == nil {
		err = r.conn.Flush()
	}
	if err != nil { // the table of an older version, or none
		err = r.rebuildLocked()
	}
	if err != nil {
		r.services = before
	}
	return err
}

// expectLeads adds ports of services to what the table should hold, for the next
// rebuild.
func (r *rules) expectLeads(to map[portAt][]share) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.services, to)
}

// queueLeads queues the messages that make the chains of ports what they should be,
// whether they are there or not.
func (r *rules) queueLeads(t table, to map[portAt][]share) error {
	elements := map[*nftables.Set][]nftables.SetElement{}
	for at, shares := range to {
		r.add(t.chainOf(at, shares))
		set, e := t.dispatch(at)
		elements[set] = append(elements[set], e)
	}
	return r.queue(inChunks(elements), r.conn.SetAddElements)
}

// chainOf returns the chain of a port.
func (t table) chainOf(at portAt, shares []share) chain {
	c := chain{Chain: &nftables.Chain{Name: at.chain(), Table: t.Table}}
	f, left := t.family(at.host.Addr()), total(shares)
	for _, s := range shares {
		c.rules = append(c.rules, rule(chance(s.weight, left), f.sendTo(s.to)))
		left -= s.weight
	}
	return c
}

func (r *rules) queueGone(t table, gone []portAt) error {
	elements := map[*nftables.Set][]nftables.SetElement{}
	for _, at := range gone {
		set, e := t.dispatch(at)
		elements[set] = append(elements[set], e)
	}
	if err := r.queue(inChunks(elements), r.conn.SetDeleteElements); err != nil {
		return err
	}
	for _, at := range gone {
		r.drop(&nftables.Chain{Name: at.chain(), Table: t.Table})
	}
	return nil
}

// dispatch returns the element by which packets for a port find its chain.
func (t table) dispatch(at portAt) (*nftables.Set, nftables.SetElement) {
	set, key := t.place(at, func(f familySets) (all, one *nftables.Set) { return f.services, f.serviceBinds })
	return set, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: at.chain()}}
}

// chain is the name of a port's chain, such as tcp4-8080 or tcp4-127.0.0.1-8080.
func (at portAt) chain() string {
	family, addr := "6", ""
	if at.host.Addr().Is4() {
		family = "4"
	}
	if !at.host.Addr().IsUnspecified() {
		addr = "-" + strings.ReplaceAll(at.host.Addr().String(), ":", "_") // nft would not read it
	}
	return fmt.Sprintf("%s%s%s-%d", protoName(at.proto), family, addr, at.host.Port())
}

// choose goes to the chain that is found in a map, by the key that the loads make.
func (f familySets) choose(set *nftables.Set, loads ...[]expr.Any) []expr.Any {
	const verdictRegister = unix.NFT_REG_VERDICT
	return rule(f.is(), rule(loads...), []expr.Any{
		&expr.Lookup{SourceRegister: reg1, DestRegister: verdictRegister, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
	})
}

// chance matches so many of a number of packets, at random.
func chance(weight, of uint32) []expr.Any {
	if weight == of {
		return nil
	}
	return []expr.Any{
		&expr.Numgen{Register: reg1, Modulus: of, Type: unix.NFT_NG_RANDOM},
		// Comparing is done byte by byte.
		&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: reg1, Data: binary.BigEndian.AppendUint32(nil, weight)},
	}
}

// sendTo sends packets to an address and port of the family.
func (f familySets) sendTo(to netip.AddrPort) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: to.Addr().AsSlice()},
		&expr.Immediate{Register: reg2, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: reg1, RegProtoMin: reg2, Specified: true},
	}
}
