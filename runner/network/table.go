package network

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// table is the layout of an instance's nftables table. nft would list it as
//
//	set bridges   { type ifname }                   the bridges of this instance
//	set inside    { type ifname . ifname }          (bridge, bridge): within one network
//	set internal  { type ifname }                   bridges of internal networks
//	set subnets4  { type ipv4_addr; interval }      of all networks
//	set masked4   { type ipv4_addr; interval }      of those that go out under the host's address
//	set subnets6, masked6 likewise
//	map ports4    { type inet_proto . inet_service : ipv4_addr . inet_service }
//	map binds4    { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//	map ports6, binds6 likewise
//	map services4     { type inet_proto . inet_service : verdict }
//	map servicebinds4 { type ipv4_addr . inet_proto . inet_service : verdict }
//	map services6, servicebinds6 likewise
//
//	chain raw         { type filter hook prerouting priority raw
//	                    iifname != "lo" ip daddr 127.0.0.0/8 drop }
//	chain prerouting  { type nat hook prerouting priority dstnat
//	                    fib daddr type local jump published }
//	chain output      { type nat hook output priority dstnat
//	                    ip6 daddr ::1 accept
//	                    fib daddr type local jump published }
//	chain published   { dnat ip to ip daddr . meta l4proto . th dport map @binds4
//	                    dnat ip to meta l4proto . th dport map @ports4
//	                    ip daddr . meta l4proto . th dport vmap @servicebinds4
//	                    meta l4proto . th dport vmap @services4
//	                    and the same for ip6 }
//	chain tcp4-8080   { numgen random mod 3 < 1 dnat ip to 172.17.0.2:80
//	                    dnat ip to 172.17.0.3:80 }
//	and one for each other port of a service
//	chain forward     { type filter hook forward priority filter
//	                    oifname != @bridges iifname != @internal accept
//	                    ct state established,related accept
//	                    iifname . oifname @inside accept
//	                    iifname @internal drop
//	                    oifname @internal drop
//	                    ct status dnat accept
//	                    drop }
//	chain postrouting { type nat hook postrouting priority srcnat
//	                    oifname @bridges ip saddr 127.0.0.0/8 masquerade
//	                    oifname @bridges ct status dnat ip saddr @subnets4 masquerade
//	                    oifname != @bridges ip saddr @masked4 masquerade
//	                    and the last two for ip6 }
//
// A network is an element of the sets, a published port one of a map: however
// many there are, a packet is looked up once in each. The example's service has a
// second backend of twice the weight of the first.
type table struct {
	*nftables.Table
	bridges, inside, internal *nftables.Set
	v4, v6                    familySets
}

// familySets are the sets of one family of addresses.
type familySets struct {
	ipFamily
	subnets *nftables.Set
	masked  *nftables.Set
	ports   *nftables.Set // of every address of the host
	binds   *nftables.Set // of one
	// of services: for both of these, where to look for a container
	services, serviceBinds *nftables.Set
}

// ipFamily is where a family of addresses has what rules look at.
type ipFamily struct {
	nfproto  byte
	size     uint32 // of an address
	src, dst uint32 // offsets in the header
	addr     nftables.SetDatatype
	suffix   string
}

func layout(name string) table {
	t := &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	family := func(f ipFamily) familySets {
		target := nftables.MustConcatSetType(f.addr, nftables.TypeInetService)
		port := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
		return familySets{
			ipFamily: f,
			subnets:  &nftables.Set{Table: t, Name: "subnets" + f.suffix, Interval: true, KeyType: f.addr},
			masked:   &nftables.Set{Table: t, Name: "masked" + f.suffix, Interval: true, KeyType: f.addr},
			ports: &nftables.Set{
				Table: t, Name: "ports" + f.suffix, IsMap: true, Concatenation: true,
				KeyType: nftables.MustConcatSetType(port...), DataType: target,
			},
			binds: &nftables.Set{
				Table: t, Name: "binds" + f.suffix, IsMap: true, Concatenation: true,
				KeyType: nftables.MustConcatSetType(f.addr, port[0], port[1]), DataType: target,
			},
			services: &nftables.Set{
				Table: t, Name: "services" + f.suffix, IsMap: true, Concatenation: true,
				KeyType: nftables.MustConcatSetType(port...), DataType: nftables.TypeVerdict,
			},
			serviceBinds: &nftables.Set{
				Table: t, Name: "servicebinds" + f.suffix, IsMap: true, Concatenation: true,
				KeyType: nftables.MustConcatSetType(f.addr, port[0], port[1]), DataType: nftables.TypeVerdict,
			},
		}
	}
	l := table{
		Table:    t,
		bridges:  &nftables.Set{Table: t, Name: "bridges", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		internal: &nftables.Set{Table: t, Name: "internal", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		inside: &nftables.Set{
			Table: t, Name: "inside", Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName),
		},
		v4: family(ipFamily{nfproto: unix.NFPROTO_IPV4, size: 4, src: 12, dst: 16, addr: nftables.TypeIPAddr, suffix: "4"}),
		v6: family(ipFamily{nfproto: unix.NFPROTO_IPV6, size: 16, src: 8, dst: 24, addr: nftables.TypeIP6Addr, suffix: "6"}),
	}
	// The package would number sets across all connections, without a lock.
	for i, s := range l.sets() {
		s.ID = uint32(i + 1)
	}
	return l
}

func (t table) sets() []*nftables.Set {
	return []*nftables.Set{
		t.bridges, t.inside, t.internal,
		t.v4.subnets, t.v4.masked, t.v4.ports, t.v4.binds, t.v4.services, t.v4.serviceBinds,
		t.v6.subnets, t.v6.masked, t.v6.ports, t.v6.binds, t.v6.services, t.v6.serviceBinds,
	}
}

// members returns networks as elements of the sets they belong to.
func (t table) members(list ...segment) map[*nftables.Set][]nftables.SetElement {
	sets := map[*nftables.Set][]nftables.SetElement{}
	for _, s := range list {
		name := ifname(s.bridge)
		sets[t.bridges] = append(sets[t.bridges], nftables.SetElement{Key: name})
		if !s.isolated {
			sets[t.inside] = append(sets[t.inside], nftables.SetElement{Key: concat(name, name)})
		}
		if s.internal {
			sets[t.internal] = append(sets[t.internal], nftables.SetElement{Key: name})
		}
		for _, subnet := range s.subnets {
			family := t.family(subnet.Addr())
			sets[family.subnets] = append(sets[family.subnets], interval(subnet)...)
			if s.masquerade && !s.internal {
				sets[family.masked] = append(sets[family.masked], interval(subnet)...)
			}
		}
	}
	return sets
}

// bindings returns bindings as elements of the maps they belong to.
func (t table) bindings(list []binding) iter.Seq2[*nftables.Set, []nftables.SetElement] {
	maps := map[*nftables.Set][]nftables.SetElement{}
	for _, b := range list {
		set, e := t.binding(b)
		maps[set] = append(maps[set], e)
	}
	return inChunks(maps)
}

func (t table) binding(b binding) (*nftables.Set, nftables.SetElement) {
	set, key := t.place(portAt{b.proto, b.host}, func(f familySets) (all, one *nftables.Set) { return f.ports, f.binds })
	return set, nftables.SetElement{
		Key: key, Val: concat(b.to.Addr().AsSlice(), binary.BigEndian.AppendUint16(nil, b.to.Port())),
	}
}

// family returns the sets of an address's family.
func (t table) family(addr netip.Addr) familySets {
	if addr.Is4() {
		return t.v4
	}
	return t.v6
}

// place returns the map that a port belongs to, of that for ports at all addresses
// and that for those at one, and its key there.
func (t table) place(at portAt, of func(familySets) (all, one *nftables.Set)) (set *nftables.Set, key []byte) {
	all, one := of(t.family(at.host.Addr()))
	key = concat([]byte{at.proto}, binary.BigEndian.AppendUint16(nil, at.host.Port()))
	if at.host.Addr().IsUnspecified() {
		return all, key
	}
	return one, append(at.host.Addr().AsSlice(), key...)
}

func inChunks(maps map[*nftables.Set][]nftables.SetElement) iter.Seq2[*nftables.Set, []nftables.SetElement] {
	return func(yield func(*nftables.Set, []nftables.SetElement) bool) {
		for set, elements := range maps {
			for chunk := range chunks(elements) {
				if !yield(set, chunk) {
					return
				}
			}
		}
	}
}

// chunks splits a list of elements, whose length is a number of 16 bits in a
// message. Both ends of an interval are in one.
func chunks(list []nftables.SetElement) iter.Seq[[]nftables.SetElement] {
	return slices.Chunk(list, 256)
}

// concat joins the parts of a concatenated key: each begins at a multiple of four
// bytes.
func concat(parts ...[]byte) []byte {
	var key []byte
	for _, p := range parts {
		key = append(key, p...)
		for len(key)%4 != 0 {
			key = append(key, 0)
		}
	}
	return key
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// interval returns the elements of a subnet in a set of intervals.
func interval(p netip.Prefix) []nftables.SetElement {
	list := []nftables.SetElement{{Key: p.Addr().AsSlice()}}
	if end := lastAddr(p).Next(); end.IsValid() {
		list = append(list, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return list
}
