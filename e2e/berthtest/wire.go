package berthtest

import (
	"fmt"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/berth-registry/berth/internal/netns"
)

// Wire is a network of machines: a switch, in a network namespace of its own, that each
// is plugged into with an interface beside those that it has anyway. It ends with the
// test.
type Wire struct {
	tb    testing.TB
	ns    *os.File         // of the switch, which is there as long as this is open
	ports map[*Machine]int // numbers, in the order in which they were plugged in first
}

// wireLink is the name of the interface of a machine that is plugged in.
const wireLink = "eth1"

// NewWire makes a wire with nothing at its ends.
func NewWire(tb testing.TB) *Wire {
	tb.Helper()
	Root(tb)
	ns, err := netns.New(func() error {
		hub := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
		if err := netlink.LinkAdd(hub); err != nil {
			return err
		}
		return netlink.LinkSetUp(hub)
	})
	if err != nil {
		tb.Fatalf("make a switch: %v", err)
	}
	tb.Cleanup(func() { _ = ns.Close() }) // all that is in it goes with it
	return &Wire{tb: tb, ns: ns, ports: map[*Machine]int{}}
}

// Plug connects a machine, and returns its address there. After Unplug, and after a
// reboot, it is the same.
func (w *Wire) Plug(m *Machine) (address string) {
	w.tb.Helper()
	if _, known := w.ports[m]; !known {
		w.ports[m] = len(w.ports) + 1
	}
	address = fmt.Sprintf("192.168.214.%d", w.ports[m])
	has := func() error { _, err := netlink.LinkByName(wireLink); return err }
	end := netns.Do(m.network(), has)
	err := netns.Do(w.ns, func() error {
		link, err := netlink.LinkByName(w.port(m))
		if err == nil && end == nil {
			return netlink.LinkSetUp(link)
		}
		if err == nil { // its other end is of a machine that has lost its power, or goes with that
			_ = netlink.LinkDel(link)
		}
		return w.lay(m)
	})
	if err == nil {
		err = netns.Do(m.network(), func() error { return setAddress(address + "/24") })
	}
	if err != nil {
		w.tb.Fatalf("plug in a machine: %v", err)
	}
	return address
}

// Unplug takes a machine's cable out: nothing arrives there any more, and nobody is
// told.
func (w *Wire) Unplug(m *Machine) {
	w.tb.Helper()
	err := netns.Do(w.ns, func() error {
		link, err := netlink.LinkByName(w.port(m))
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	})
	if err != nil {
		w.tb.Fatalf("unplug a machine: %v", err)
	}
}

// port is the name of the switch's end of a cable.
func (w *Wire) port(m *Machine) string { return fmt.Sprintf("port%d", w.ports[m]) }

// lay lays a cable from the switch to a machine.
func (w *Wire) lay(m *Machine) error {
	hub, err := netlink.LinkByName("switch")
	if err != nil {
		return err
	}
	cable := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: w.port(m), MasterIndex: hub.Attrs().Index},
		PeerName:  wireLink, PeerNamespace: netlink.NsFd(m.network().Fd()),
		// The same after a reboot: the others remember it.
		PeerHardwareAddr: net.HardwareAddr{0x02, 0xbe, 0, 0, 0, byte(w.ports[m])},
	}
	if err := netlink.LinkAdd(cable); err != nil {
		return err
	}
	return netlink.LinkSetUp(cable)
}

// setAddress gives the machine's end of a cable its address.
func setAddress(address string) error {
	link, err := netlink.LinkByName(wireLink)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// network is the network namespace of the machine, which is up.
func (m *Machine) network() *os.File { return m.ns[slices.Index(namespaces, "net")] }
