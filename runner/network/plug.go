package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// plug is the wiring of one container to one network.
type plug struct {
	host  string // name of the interface on the host, in a bridged network
	guest string // and in the container
	lan   *lan
	mac   []byte
	addrs []address
	// settings of the container's interface: by the file below /proc/sys
	sysctls map[string]string
}

// address is one address of a container and what is reached by it.
type address struct {
	prefix       netip.Prefix
	defaultRoute bool
	gateway      netip.Addr // not valid: the default route goes straight out
}

// plug returns the wiring of an endpoint, without default routes.
func (ep *endpoint) plug(guest string) (p plug, err error) {
	n := ep.lan
	p = plug{host: ep.link.name, guest: guest, lan: n, mac: ep.settings.MacAddress}
	if addr := ep.link.v4; addr.IsValid() {
		p.addrs = append(p.addrs, address{prefix: netip.PrefixFrom(addr, n.v4.prefix.Bits())})
	}
	if addr := ep.link.v6; addr.IsValid() {
		p.addrs = append(p.addrs, address{prefix: netip.PrefixFrom(addr, n.v6.prefix.Bits())})
	}
	if c := ep.settings.IPAMConfig; c != nil {
		for _, addr := range c.LinkLocalIPs {
			p.addrs = append(p.addrs, address{prefix: netip.PrefixFrom(addr, map[bool]int{true: 16, false: 64}[addr.Is4()])})
		}
	}
	if list := ep.settings.DriverOpts[optSysctls]; list != "" {
		p.sysctls, err = sysctlsFor(list, guest)
	}
	return p, err
}

// defaults gives the container its default routes by this network.
func (p *plug) defaults(v4, v6 bool) {
	for i := range p.addrs {
		a := &p.addrs[i]
		is6 := a.prefix.Addr().Is6()
		if a.prefix.Addr().IsLinkLocalUnicast() || !is6 && !v4 || is6 && !v6 {
			continue
		}
		a.gateway, a.defaultRoute = p.lan.gateway(is6)
	}
}

func (p plug) has6() bool {
	return slices.ContainsFunc(p.addrs, func(a address) bool { return a.prefix.Addr().Is6() })
}

// connect makes the container's interface, straight in its namespace, and gives it
// addresses and routes.
func (p plug) connect(ctx context.Context, host *rtnl, ns *os.File) error {
	guest, notices, err := p.dialGuest(ns)
	if err != nil {
		return err
	}
	defer guest.close()
	defer notices.close()
	if err := p.make(ctx, host, guest, ns); err != nil {
		return err
	}
	if err := p.setUp(host, guest, notices); err != nil {
		return errors.Join(err, p.undo(host, guest))
	}
	if len(p.sysctls) > 0 {
		err = inNetNS(ns, func() error {
			for name, value := range p.sysctls {
				if err := setSysctl(name, value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return errors.Join(err, p.undo(host, guest))
		}
	}
	return nil
}

// make makes the interface.
func (p plug) make(ctx context.Context, host, guest *rtnl, ns *os.File) error {
	raw, err := ns.SyscallConn()
	if err != nil {
		return err
	}
	create := p.create
	if !p.lan.bridged() {
		create = p.createVlan
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = host.do(create(int(fd))) })
	if err == nil {
		err = inner
	}
	if err != nil || p.lan.bridged() {
		return err
	}
	return p.bringUp(ctx, guest)
}

// setUp configures both ends and waits until packets pass.
func (p plug) setUp(host, guest, notices *rtnl) error {
	if p.lan.bridged() {
		// Before the container's end is up: it may be kept from others.
		if err := p.announce(host); err != nil {
			return err
		}
	}
	if err := p.configure(guest); err != nil {
		return err
	}
	for _, a := range p.addrs {
		if a.prefix.Addr().Is6() {
			if err := notices.awaitAddress(a.prefix.Addr()); err != nil {
				return err
			}
		}
	}
	if !p.lan.bridged() {
		return guest.settle(p.guest)
	}
	// In this order: one is the carrier of the next.
	return errors.Join(guest.settle(p.guest), host.settle(p.host), host.settle(p.lan.Interface))
}

// undo deletes the interface.
func (p plug) undo(host, guest *rtnl) error {
	if p.lan.bridged() {
		return unlessGone(host.do(deleteLink(p.host)))
	}
	return unlessGone(guest.do(deleteLink(p.guest)))
}

// dialGuest opens two sockets in a container's namespace: for requests, and for
// notices of IPv6 addresses. An interface that has no such address gets none by
// itself either.
func (p plug) dialGuest(ns *os.File) (requests, notices *rtnl, err error) {
	err = inNetNS(ns, func() error {
		const name = "net/ipv6/conf/default/disable_ipv6"
		if now := getSysctl(name); now != "" {
			if want := strconv.Itoa(1 - b2i(p.has6())); now != want {
				if err := setSysctl(name, want); err != nil {
					return err
				}
			}
		}
		if requests, err = dialRtnl(0); err != nil {
			return err
		}
		if notices, err = dialRtnl(unix.RTMGRP_IPV6_IFADDR); err != nil {
			requests.close()
		}
		return err
	})
	return requests, notices, err
}
