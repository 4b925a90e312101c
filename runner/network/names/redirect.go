package names

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of the table in a container's namespace. nft would list it
// as
//
//	table ip berth-names {
//	  chain output { type filter hook output priority raw
//	    ip daddr 127.0.0.11 udp dport 53 udp dport set UDP
//	    ip saddr 127.0.0.11 udp sport UDP udp sport set 53
//	    and the same for tcp } }
const tableName = "berth-names"

const port = 53

// redirect makes the table in the namespace of the calling thread, in place of
// one that is there. What takes its time is left to background.
func redirect(udp, tcp uint16, background func(func())) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}
	conn.CreateTable(t)
	addRules(conn, t, udp, tcp)
	if err = conn.Flush(); !errors.Is(err, unix.EEXIST) {
		_ = conn.CloseLasting()
		return wrap(err)
	}
	// A daemon before has made it.
	conn.DelTable(t)
	conn.CreateTable(t)
	addRules(conn, t, udp, tcp)
	err = conn.Flush()
	// The kernel lets go of a socket by which something was deleted only when
	// that is quite gone, after ten milliseconds or so.
	background(func() { _ = conn.CloseLasting() })
	return wrap(err)
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("make table %s of nftables: %w", tableName, err)
}

// addRules queues the chain and its rules.
func addRules(conn *nftables.Conn, t *nftables.Table, udp, tcp uint16) {
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
	})
	const src, dst = 12, 16 // of addresses in the header of IPv4
	const sport, dport = 0, 2
	for _, p := range []struct {
		proto  byte
		port   uint16
		sumOff uint32 // of the checksum in the transport header
	}{{unix.IPPROTO_UDP, udp, 6}, {unix.IPPROTO_TCP, tcp, 16}} {
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: rewrite(p.proto, dst, dport, port, p.port, p.sumOff)})
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: rewrite(p.proto, src, sport, p.port, port, p.sumOff)})
	}
}

// rewrite replaces one port by another, in packets whose address is the server's.
func rewrite(proto byte, addrOff, portOff uint32, from, to uint16, sumOff uint32) []expr.Any {
	const reg = unix.NFT_REG_1
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: addrOff, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: Address().AsSlice()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{proto}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: portOff, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binary.BigEndian.AppendUint16(nil, from)},
		&expr.Immediate{Register: reg, Data: binary.BigEndian.AppendUint16(nil, to)},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: reg,
			Base: expr.PayloadBaseTransportHeader, Offset: portOff, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: sumOff,
		},
	}
}
