package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// What linux/if_link.h has of ipvlan, and no package names.
const (
	ipvlanMode  = 1 // IFLA_IPVLAN_MODE
	ipvlanFlags = 2 // IFLA_IPVLAN_FLAGS

	ipvlanL2, ipvlanL3, ipvlanL3S = 0, 1, 2 // IPVLAN_MODE_*
	ipvlanPrivate, ipvlanVEPA     = 1, 2    // IPVLAN_F_*
)

// createVlan is the message that makes an interface of macvlan or ipvlan: of one
// on the host, and straight in the container's namespace.
func (p plug) createVlan(ns int) request {
	data := []nl.NetlinkRequestData{
		nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.guest)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.lan.mtu))),
		nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(p.lan.index))),
		nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns))),
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, []byte(p.lan.Driver))
	options := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	if p.lan.Driver == driverMacvlan {
		options.AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(p.lan.mode))
		if p.lan.mode != nl.MACVLAN_MODE_PASSTHRU { // there it has the parent's
			data = append(data, nl.NewRtAttr(unix.IFLA_ADDRESS, p.mac))
		}
	} else {
		options.AddRtAttr(ipvlanMode, nl.Uint16Attr(uint16(p.lan.mode)))
		options.AddRtAttr(ipvlanFlags, nl.Uint16Attr(p.lan.flag))
	}
	return newRequest("create interface "+p.guest+" of "+p.lan.Interface, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(data, info)...)
}

// bringUp sets the interface up. One of a container that has just ended may have
// its hardware address for a moment yet.
func (p plug) bringUp(ctx context.Context, guest *rtnl) error {
	const patience = 5 * time.Second
	index, err := guest.indexOf(p.guest)
	if err != nil {
		return fmt.Errorf("interface %s: %w", p.guest, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err = guest.do(newRequest("set "+p.guest+" up", unix.RTM_NEWLINK, 0, flagsUp(index)))
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		break
	}
	if err != nil {
		return errors.Join(err, unlessGone(guest.do(deleteLink(p.guest))))
	}
	return nil
}

// guestNS is the container's side of its interfaces, for changes while it lives.
type guestNS struct{ *netlink.Handle }

func openInside(ns *os.File) (guestNS, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE) // a namespace knows no blocking
	if err != nil {
		return guestNS{}, fmt.Errorf("enter the container's network namespace: %w", err)
	}
	return guestNS{h}, nil
}

// names returns the names of the interfaces there are.
func (in guestNS) names() (map[string]bool, error) {
	links, err := dump(in.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the container's interfaces: %w", err)
	}
	taken := map[string]bool{}
	for _, l := range links {
		taken[l.Attrs().Name] = true
	}
	return taken, nil
}

// indexOf returns the interface that has one of an endpoint's addresses. It is 0 if
// none has: the container may have changed them.
func (in guestNS) indexOf(ep *endpoint) (int, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return in.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list the container's addresses: %w", err)
	}
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && (addr == ep.link.v4 || addr == ep.link.v6) {
			return a.LinkIndex, nil
		}
	}
	return 0, nil
}

// deleteInside deletes an endpoint's interface where only the container has one.
func (ep *endpoint) deleteInside(ns *os.File) error {
	in, err := openInside(ns)
	if err != nil {
		return err
	}
	defer in.Close()
	index, err := in.indexOf(ep)
	if err != nil || index == 0 {
		return err
	}
	return unlessGone(in.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}))
}
