package network

import (
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

// evilRoute sends packets for 127.0.0.1 out of eth0, as root in a container may:
// its own loopback gives way.
func evilRoute(h *rtnl) error {
	index, err := h.indexOf("eth0")
	if err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0); err != nil {
		return err
	}
	nh, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer nh.Close()
	lo, err := nh.LinkByName("lo")
	if err != nil {
		return err
	}
	addrs, err := nh.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for i := range addrs {
		if err := nh.AddrDel(lo, &addrs[i]); err != nil {
			return err
		}
	}
	list, err := nh.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	var gw net.IP
	for _, r := range list {
		if r.Gw != nil {
			gw = r.Gw
		}
	}
	_, dst, err := net.ParseCIDR("127.0.0.1/32")
	if err != nil {
		return err
	}
	return nh.RouteAdd(&netlink.Route{Dst: dst, Gw: gw, LinkIndex: int(index)})
}
