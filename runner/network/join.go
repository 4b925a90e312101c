package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Join connects a container that runs to one more network: req has that one alone,
// and the ports asked for. It returns all that the container has then. If it fails,
// the container is as before.
func (m *Manager) Join(ctx context.Context, req Request) (Endpoint, error) {
	list, err := m.check(req)
	if err != nil {
		return Endpoint{}, err
	}
	a, err := m.running(req.ContainerID)
	if err != nil {
		return Endpoint{}, err
	}
	if len(list) != 1 || !list[0].lan.wired() || !a.wired() {
		return Endpoint{}, runner.Errorf(runner.ErrInvalid, "container sharing network namespace with another container or host cannot be connected to any other network")
	}
	n := list[0].lan
	if a.in(n) != nil {
		return Endpoint{}, runner.Errorf(runner.ErrForbidden, "endpoint with name %s already exists in network %s", a.name, n.Name)
	}
	if n.userDefined() { // to whom it is served already, it changes nothing
		if err := m.names.Serve(ctx, a.id, req.NetNS); err != nil {
			return Endpoint{}, err
		}
	}
	ep, err := m.enter(ctx, a, n, list[0].asked)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.join(ctx, a, ep, req); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.quit(ep)
		return Endpoint{}, fmt.Errorf("connect container %s: %w", a.name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n.names.add(ep)
	return a.given(), nil
}

// running returns what a connected container has.
func (m *Manager) running(id string) (*attachment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.attached[id]; a != nil {
		return a, nil
	}
	return nil, runner.Errorf(runner.ErrConflict, "container %s is not running", id)
}

// wired says whether the container is in no network without interfaces.
func (a *attachment) wired() bool {
	return !slices.ContainsFunc(a.endpoints, func(ep *endpoint) bool { return !ep.lan.wired() })
}

// join makes the interface of an endpoint, and moves default routes and ports where
// they belong now. The endpoint is the container's if it succeeds.
func (m *Manager) join(ctx context.Context, a *attachment, ep *endpoint, req Request) error {
	in, err := openInside(req.NetNS)
	if err != nil {
		return err
	}
	defer in.Close()
	taken, err := in.names()
	if err != nil {
		return err
	}
	p, err := ep.plug(ifNameFor(ep, taken))
	if err == nil {
		err = p.connect(ctx, m.host, req.NetNS)
	}
	if err != nil {
		return err
	}
	before := a.endpoints
	m.set(a, append(slices.Clone(before), ep))
	if err = m.settle(a, before, in, req.Ports); err != nil {
		m.set(a, before)
		err = errors.Join(err, m.cut(ep, req.NetNS))
	}
	return err
}

func (m *Manager) set(a *attachment, list []*endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.endpoints = list
}

// Leave takes a container that runs out of a network, and returns what it has then.
// Its ports are those asked for. They lead elsewhere before the interface goes; if
// they cannot, the container is as before.
func (m *Manager) Leave(_ context.Context, containerID, name string, ns *os.File, ports network.PortMap) (Endpoint, error) {
	a, err := m.running(containerID)
	if err != nil {
		return Endpoint{}, err
	}
	m.mu.Lock()
	n := m.find(name)
	m.mu.Unlock()
	var ep *endpoint
	if n != nil {
		ep = a.in(n)
	}
	if ep == nil || ep.link == nil {
		return Endpoint{}, runner.Errorf(runner.ErrForbidden, "container %s is not connected to network %s", containerID, name)
	}
	fail := func(err error) (Endpoint, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return a.given(), fmt.Errorf("disconnect container %s: %w", a.name, err)
	}
	in, err := openInside(ns)
	if err != nil {
		return fail(err)
	}
	defer in.Close()
	before, reserved, to := a.endpoints, a.reserved, a.target
	m.set(a, slices.DeleteFunc(slices.Clone(before), func(o *endpoint) bool { return o == ep }))
	if err := m.settle(a, before, in, ports); err != nil {
		m.set(a, before)
		return fail(err)
	}
	m.mu.Lock()
	n.names.remove(ep)
	m.mu.Unlock()
	err = m.cut(ep, ns)
	m.carry.drop(ep.link.v4, ep.link.v6)
	if to != a.target {
		m.forgetFlows(reserved, to, true)
	}
	m.mu.Lock()
	m.quit(ep)
	m.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return a.given(), nil
}

// settle brings default routes and ports of a container in line with its
// endpoints, which were others before. If it fails, they are as before.
func (m *Manager) settle(a *attachment, before []*endpoint, in guestNS, ports network.PortMap) error {
	err := reroute(in, before, a.endpoints)
	if to := targetOf(a.endpoints); err == nil && (to != a.target || len(a.ports) == 0) {
		had := a.target
		if err = m.publish(a, to, withPorts(ports, a.ports)); err == nil {
			if err = m.follow(a.id); err != nil {
				err = errors.Join(err, m.publish(a, had, a.ports))
			}
		}
		reserved := a.reserved
		m.wg.Go(func() { m.forgetFlows(reserved, to, false) })
	}
	if err != nil {
		return errors.Join(err, reroute(in, a.endpoints, before))
	}
	return nil
}

// reroute makes a container's default routes those of its endpoints, which were
// others before.
func reroute(in guestNS, before, after []*endpoint) error {
	var errs []error
	for _, v6 := range []bool{false, true} {
		if ep := gateway(after, v6); ep != gateway(before, v6) {
			errs = append(errs, in.route(ep, v6))
		}
	}
	return errors.Join(errs...)
}

// route makes the default route of a family go by an endpoint; nil: there is none.
func (in guestNS) route(ep *endpoint, v6 bool) error {
	fam := netlink.FAMILY_V4
	if v6 {
		fam = netlink.FAMILY_V6
	}
	list, err := dump(func() ([]netlink.Route, error) { return in.RouteList(nil, fam) })
	if err != nil {
		return fmt.Errorf("list the container's routes: %w", err)
	}
	for _, r := range list {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() && isZero(r.Dst.Mask) {
			if err := in.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("delete the container's default route: %w", err)
			}
		}
	}
	if ep == nil {
		return nil
	}
	index, err := in.indexOf(ep)
	if err != nil {
		return err
	}
	r := netlink.Route{LinkIndex: index, Family: fam}
	if addr, _ := ep.lan.gateway(v6); addr.IsValid() {
		r.Gw = addr.AsSlice()
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := in.RouteAdd(&r); err != nil {
		return fmt.Errorf("set the container's default route: %w", err)
	}
	return nil
}

func isZero(mask []byte) bool {
	return !slices.ContainsFunc(mask, func(b byte) bool { return b != 0 })
}
