package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// candidates returns the subnets that a network may be given, the preferred
// first: those that Docker takes.
func candidates() []netip.Prefix {
	var list []netip.Prefix
	for i := byte(17); i < 32; i++ {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i, 0, 0}), 16))
	}
	for i := 0; i < 256; i += 16 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 20))
	}
	return list
}

// chooseSubnet returns the first candidate that overlaps with none of the
// prefixes in use.
func chooseSubnet(inUse []netip.Prefix) (netip.Prefix, error) {
	for _, p := range candidates() {
		if !overlaps(p, inUse) {
			return p, nil
		}
	}
	return netip.Prefix{}, runner.Errorf(runner.ErrForbidden, "all predefined address pools have been fully subnetted: every one of 172.17.0.0/16 to 172.31.0.0/16 and 192.168.0.0/20 to 192.168.240.0/20 overlaps with another network or a route of this host; give a subnet")
}

// overlaps says whether a prefix shares addresses with one in use. Default routes
// do not count.
func overlaps(p netip.Prefix, inUse []netip.Prefix) bool {
	for _, u := range inUse {
		if u.Bits() > 0 && p.Overlaps(u) {
			return true
		}
	}
	return false
}

// randomULA returns a subnet of IPv6 addresses that are unique to this host in
// all likelihood (RFC 4193).
func randomULA() netip.Prefix {
	addr := [16]byte{0xfd}
	_, _ = rand.Read(addr[1:6]) // never fails
	return netip.PrefixFrom(netip.AddrFrom16(addr), 64)
}

// routes returns the destinations of the host's routes but those by the given
// interface.
func routes(except string) ([]netip.Prefix, error) {
	own := -1
	if link, err := netlink.LinkByName(except); err == nil {
		own = link.Attrs().Index
	}
	list, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var prefixes []netip.Prefix
	for _, r := range list {
		if r.Dst == nil || r.LinkIndex == own {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		if ok {
			prefixes = append(prefixes, netip.PrefixFrom(addr, ones))
		}
	}
	return prefixes, nil
}

// lockSubnets makes managers that start at the same time choose one after the
// other. The lock is an abstract socket: it is of this network namespace, as the
// subnets are, and goes with the process.
func lockSubnets(ctx context.Context) (unlock func(), err error) {
	for {
		l, err := (&net.ListenConfig{}).Listen(ctx, "unix", "@berth-runner-subnets")
		if err == nil {
			return func() { _ = l.Close() }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("lock the choice of subnets: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
