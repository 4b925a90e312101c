package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridge is a network whose containers are joined by a bridge of the host.
type bridge struct {
	record
	index int32
	mtu   int
	v4    *pool
	v6    *pool // nil where the host has no IPv6
}

// ensure makes the interface as the record says, or takes over the one there is.
func (b *bridge) ensure(host *rtnl) error {
	link, err := netlink.LinkByName(b.Interface)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = b.Interface, b.mtu
		// Without an address of its own a bridge changes it with its ports.
		attrs.HardwareAddr = macOf(b.v4.gateway)
		err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		if err == nil {
			link, err = netlink.LinkByName(b.Interface)
		}
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", b.Interface, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("interface %s is there and is no bridge", b.Interface)
	}
	b.index = int32(link.Attrs().Index)
	b.mtu = link.Attrs().MTU
	if err := b.sysctls(); err != nil {
		return err
	}
	requests := []request{
		newRequest("set "+b.Interface+" up", unix.RTM_NEWLINK, 0, flagsUp(b.index)),
		addAddress(b.index, netip.PrefixFrom(b.v4.gateway, b.Subnet.Bits())),
	}
	if b.v6 != nil {
		requests = append(requests, addAddress(b.index, netip.PrefixFrom(b.v6.gateway, b.Subnet6.Bits())))
	}
	return host.do(requests...)
}

// sysctls sets what the kernel keeps for the bridge alone.
func (b *bridge) sysctls() error {
	// To reach a container by 127.0.0.1. What it would let in is dropped by a rule.
	err := setSysctl("net/ipv4/conf/"+b.Interface+"/route_localnet", "1")
	if b.v6 == nil || err != nil {
		return err
	}
	return errors.Join(
		setSysctl("net/ipv6/conf/"+b.Interface+"/disable_ipv6", "0"),
		setSysctl("net/ipv6/conf/"+b.Interface+"/accept_ra", "0"), // of a container
	)
}

// open completes the record of a new network and makes its interface.
func (b *bridge) open(ctx context.Context, host *rtnl, o Options) (changed bool, err error) {
	unlock, err := lockSubnets(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	before := b.record
	b.Interface = o.Bridge
	if err := b.choose(ctx, host, o); err != nil {
		return false, err
	}
	b.v4, b.v6 = newPool(b.Subnet), nil
	if hasIPv6() {
		b.v6 = newPool(b.Subnet6)
	}
	b.mtu = defaultMTU()
	return b.record != before, b.ensure(host)
}

// choose sets the subnets: those asked for, those of before, or some that are free
// on the host.
func (b *bridge) choose(ctx context.Context, host *rtnl, o Options) error {
	inUse, err := routes(b.Interface)
	if err != nil {
		return err
	}
	there := exists(host, b.Interface)
	if there && b.differs(o) {
		if there, err = b.replace(host); err != nil {
			return err
		}
		if there {
			o.Log.WarnContext(ctx, "containers are connected: the bridge network keeps its subnets until none is", "subnet", b.Subnet, "subnet6", b.Subnet6)
			return nil
		}
	}
	switch {
	case o.Subnet.IsValid():
		b.Subnet = o.Subnet.Masked()
	case !b.Subnet.IsValid(), overlaps(b.Subnet, inUse) && !there:
		// A host that was moved to another network meanwhile gets another subnet;
		// not so while containers may run.
		if b.Subnet, err = chooseSubnet(inUse); err != nil {
			return err
		}
	}
	switch {
	case o.Subnet6.IsValid():
		b.Subnet6 = o.Subnet6.Masked()
	case !b.Subnet6.IsValid():
		b.Subnet6 = randomULA()
	}
	return nil
}

// differs says whether the record has other subnets than those asked for.
func (b *bridge) differs(o Options) bool {
	other := func(have, want netip.Prefix) bool {
		return have.IsValid() && want.IsValid() && have != want.Masked()
	}
	return other(b.Subnet, o.Subnet) || other(b.Subnet6, o.Subnet6)
}

// replace deletes the interface, so that it is made anew, unless something is
// connected to it.
func (b *bridge) replace(host *rtnl) (there bool, err error) {
	index, err := host.indexOf(b.Interface)
	if err != nil {
		return false, err
	}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == int(index) {
			return true, nil
		}
	}
	return false, host.do(deleteLink(b.Interface))
}

func exists(host *rtnl, name string) bool {
	_, err := host.indexOf(name)
	return err == nil
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

// defaultMTU returns the MTU of the interface of the host's default route.
func defaultMTU() int {
	const ethernet = 1500
	list, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return ethernet
	}
	for _, r := range list {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU >= 1280 {
			return link.Attrs().MTU
		}
	}
	return ethernet
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

const procSys = "/proc/sys"

func hasIPv6() bool {
	_, err := os.Stat(procSys + "/net/ipv6/conf/all")
	return err == nil
}

// setSysctl sets a kernel setting if it is not so already: where /proc/sys is
// read-only it may have been set by somebody else.
func setSysctl(name, value string) error {
	path := filepath.Join(procSys, name)
	if getSysctl(name) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	return nil
}

func getSysctl(name string) string {
	data, err := os.ReadFile(filepath.Join(procSys, name))
	if err != nil {
		return ""
	}
	return string(trimNewline(data))
}

func trimNewline(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		return b[:n-1]
	}
	return b
}
