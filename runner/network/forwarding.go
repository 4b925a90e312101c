package network

import (
	"log/slog"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// enableForwarding makes the host a router, which it must be for its containers.
// It stays one when the manager ends: others may have come to need it.
func enableForwarding(log *slog.Logger, v6 bool) error {
	const v4 = "net/ipv4/ip_forward"
	settings := []string{v4}
	if v6 {
		settings = append(settings, "net/ipv6/conf/all/forwarding")
	}
	for _, name := range settings {
		if getSysctl(name) == "1" {
			continue
		}
		if name != v4 {
			keepRouterAdvertisements(log)
		}
		if err := setSysctl(name, "1"); err != nil {
			return err
		}
		log.Info("switched on forwarding between interfaces; containers need it", "sysctl", name)
	}
	return nil
}

// keepRouterAdvertisements tells the interfaces that have routes from router
// advertisements to go on heeding them when the host itself becomes a router: by
// default they would stop, and those routes be deleted at once.
func keepRouterAdvertisements(log *slog.Logger) {
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V6) })
	if err != nil {
		log.Warn("cannot list routes of router advertisements", "error", err)
		return
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_RA {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue
		}
		name := "net/ipv6/conf/" + link.Attrs().Name + "/accept_ra"
		if getSysctl(name) != "1" {
			continue
		}
		if err := setSysctl(name, "2"); err != nil {
			log.Warn("router advertisements will be ignored", "interface", link.Attrs().Name, "error", err)
			continue
		}
		log.Info("router advertisements are heeded though the host forwards", "interface", link.Attrs().Name)
	}
}
