package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/moby/moby/api/types/network"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/runner"
)

// Connect connects a container to the networks it asks for, all or nothing, and
// returns what it got; the caller keeps that for Restore. From then on the
// container is reached: the first packet is not lost. A port that is taken is an
// error that names the holder; a network that is not there is runner.ErrNotFound.
func (m *Manager) Connect(ctx context.Context, req Request) (Endpoint, error) {
	wanted, err := m.check(req)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.begin(req.ContainerID); err != nil {
		return Endpoint{}, err
	}
	a := &attachment{id: req.ContainerID, name: req.Name, hostname: req.Hostname, dns: req.DNS}
	var serving errgroup.Group
	if named(wanted) {
		serving.Go(func() error { return m.names.Serve(ctx, a.id, req.NetNS) })
	}
	err = m.attach(ctx, a, req, wanted)
	served := serving.Wait()
	if err = m.attachedOr(err, a); err != nil {
		m.names.Forget(a.id)
		return Endpoint{}, err
	}
	if err := errors.Join(served, m.follow(a.id)); err != nil {
		return Endpoint{}, errors.Join(err, m.Disconnect(ctx, a.id))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return a.given(), nil
}

// attachedOr makes a container one that is connected, unless that failed: then its
// places are given up.
func (m *Manager) attachedOr(err error, a *attachment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		for _, ep := range a.endpoints {
			m.quit(ep)
		}
		delete(m.attached, a.id)
		return err
	}
	for _, ep := range a.endpoints {
		ep.lan.names.add(ep)
	}
	m.attached[a.id] = a
	return nil
}

// wanted is a network that a container asks for, and what it wishes there.
type wanted struct {
	lan   *lan
	asked *network.EndpointSettings
}

// check returns the networks that are asked for: the container's first one, and
// the others by their names.
func (m *Manager) check(req Request) ([]wanted, error) {
	names := slices.SortedFunc(maps.Keys(req.Networks), func(a, b string) int {
		return cmp.Or(b2i(b == req.First)-b2i(a == req.First), cmp.Compare(a, b))
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []wanted
	for _, name := range names {
		n := m.find(name)
		if n == nil {
			return nil, notFound(name)
		}
		es := req.Networks[name]
		if es == nil {
			es = &network.EndpointSettings{}
		}
		if err := n.checkEndpoint(es); err != nil {
			return nil, err
		}
		if n.wired() && req.NetNS == nil {
			return nil, fmt.Errorf("network: %s needs the container's network namespace", name)
		}
		if !n.wired() && len(names) > 1 {
			return nil, runner.Errorf(runner.ErrInvalid, "container cannot be connected to multiple networks with one of the networks in private (%s) mode", name)
		}
		list = append(list, wanted{n, es})
	}
	return list, nil
}

// begin marks a container as being connected.
func (m *Manager) begin(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.attached[id]; ok {
		return runner.Errorf(runner.ErrConflict, "container %s is connected to its network already", id)
	}
	m.attached[id] = nil
	return nil
}

// attach gives a container its places, ports and interfaces. If it fails, only the
// places are left to be given up.
func (m *Manager) attach(ctx context.Context, a *attachment, req Request, list []wanted) (err error) {
	for _, w := range list {
		ep, err := m.enter(ctx, a, w.lan, w.asked)
		if err != nil {
			return err
		}
		a.endpoints = append(a.endpoints, ep)
	}
	if err := m.publish(a, targetOf(a.endpoints), req.Ports); err != nil {
		return err
	}
	taken := map[string]bool{}
	for i, ep := range a.endpoints {
		if ep.link == nil {
			continue
		}
		p, err := ep.plug(ifNameFor(ep, taken))
		if err == nil {
			p.defaults(gateway(a.endpoints, false) == ep, gateway(a.endpoints, true) == ep)
			err = p.connect(ctx, m.host, req.NetNS)
		}
		if err != nil {
			for _, done := range a.endpoints[:i] {
				err = errors.Join(err, m.cut(done, req.NetNS))
			}
			return fmt.Errorf("connect container %s: %w", req.Name, errors.Join(err, m.unpublish(a)))
		}
	}
	reserved, to := a.reserved, a.target
	m.wg.Go(func() { m.forgetFlows(reserved, to, false) })
	return nil
}

// publish reserves a container's ports and opens them: those that it has already
// stay reserved, and are moved in one transaction. If it fails, all is as before.
func (m *Manager) publish(a *attachment, to target, asked network.PortMap) error {
	if len(a.endpoints) == 1 && !a.endpoints[0].lan.wired() {
		asked = nil
	}
	al, err := m.ports.allot([]order{{to.publisher(a.name), asked}}, a.reserved)
	if err == nil {
		if err = m.redirect(to.leads(al.given[0].ports), func() error {
			return m.rules.swap(bindings(a.reserved, a.target), bindings(al.given[0].ports, to))
		}); err != nil {
			al.undo()
		}
	}
	if err != nil {
		id := ""
		if len(a.endpoints) > 0 {
			id = a.endpoints[0].settings.EndpointID
		}
		return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", a.name, id, err)
	}
	al.done()
	m.mu.Lock()
	defer m.mu.Unlock()
	a.target, a.reserved, a.ports = to, al.given[0].ports, al.given[0].shown
	return nil
}

// redirection is a port of the host with where it leads from now on.
type redirection struct {
	*reservation
	lead
}

// leads returns where ports lead that have the target alone.
func (l target) leads(ports []published) (list []redirection) {
	for _, p := range ports {
		list = append(list, redirection{p.reservation, leadOf(p.portAt, p.inner, []weighted{{l, 1}})})
	}
	return list
}

// redirect has ports lead elsewhere by a change of rules: what this process carries
// is served before, and goes elsewhere, or no longer to this process, after it.
func (m *Manager) redirect(list []redirection, change func() error) (err error) {
	for _, r := range list {
		if serr := r.hold.prepare(r.lead); serr != nil {
			err = errors.Join(err, fmt.Errorf("serve %s: %w", r.host, serr))
		}
	}
	if err == nil {
		err = change()
	}
	for _, r := range list {
		if err != nil {
			r.hold.revert()
		} else {
			r.hold.follow(r.lead)
		}
	}
	return err
}

// unpublish closes a container's ports and gives them up.
func (m *Manager) unpublish(a *attachment) error {
	err := m.rules.swap(bindings(a.reserved, a.target), nil)
	m.ports.release(reservations(a.reserved))
	a.reserved = nil
	m.carry.drop(a.target.v4, a.target.v6)
	return err
}

func (m *Manager) linkName(endpointID string) string {
	return m.linkPrefix() + endpointID[:7]
}

func (m *Manager) linkPrefix() string { return "ve" + m.instance }

// Disconnect takes from a container what Connect gave it, whether its namespace
// is still there or not. Its ports are free and its rules gone when it returns;
// the interfaces go in the background, within a second or so, and their addresses
// are not given to others before. To disconnect a container that is not connected
// is no error.
func (m *Manager) Disconnect(_ context.Context, containerID string) error {
	m.mu.Lock()
	a := m.attached[containerID]
	if a == nil {
		m.mu.Unlock()
		return nil
	}
	delete(m.attached, containerID)
	for _, ep := range a.endpoints {
		m.leave(ep)
	}
	m.mu.Unlock()
	m.names.Forget(containerID)
	if !a.plugged() {
		return nil
	}
	reserved := a.reserved
	err := errors.Join(m.follow(a.id), m.unpublish(a))
	m.mu.Lock()
	served := len(m.services) > 0
	m.mu.Unlock()
	m.wg.Go(func() {
		// Before the address is somebody else's, who would get its packets.
		m.forgetFlows(reserved, a.target, true)
		if served {
			m.forgetStrays()
		}
		for _, ep := range a.endpoints {
			if ep.link != nil {
				m.wg.Go(func() { m.unplug(ep) })
			}
		}
	})
	if err != nil {
		return fmt.Errorf("disconnect container %s: %w", a.name, err)
	}
	return nil
}

// leave gives up an endpoint's place but for its addresses, which stay taken until
// its interface is gone. The manager must be locked.
func (m *Manager) leave(ep *endpoint) {
	delete(ep.lan.endpoints, ep.holder)
	ep.lan.names.remove(ep)
	if ep.link == nil {
		return
	}
	m.dying++
	for addr, p := range map[netip.Addr]*pool{ep.link.v4: ep.lan.v4, ep.link.v6: ep.lan.v6} {
		if addr.IsValid() {
			p.leave(addr)
		}
	}
}

// unplug returns when a link is gone. The namespace, which is about to end, takes
// it along: that costs nobody a wait, while to delete it takes tens of
// milliseconds during which no other can be made. What macvlan and ipvlan have is
// in the namespace only, and not seen from here.
func (m *Manager) unplug(ep *endpoint) {
	const patience = 2 * time.Second
	cut, name := false, ep.link.name
	for wait, begin := 5*time.Millisecond, time.Now(); ep.lan.bridged() && exists(m.host, name); wait *= 2 {
		if !cut && wait > 20*time.Millisecond {
			_ = m.host.do(cutLink(name)) // it may be gone
			cut = true
		}
		if m.stopped.Err() != nil || time.Since(begin) > patience {
			if err := m.host.do(deleteLink(name)); err != nil && exists(m.host, name) {
				m.log.Warn("an interface is left", "interface", name, "error", err)
			}
			break
		}
		select {
		case <-time.After(min(wait, 200*time.Millisecond)):
		case <-m.stopped.Done():
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dying--
	m.releaseAddresses(ep)
}

// cut deletes an endpoint's interface while its container lives.
func (m *Manager) cut(ep *endpoint, ns *os.File) error {
	if ep.link == nil {
		return nil
	}
	if ep.lan.bridged() {
		return unlessGone(m.host.do(deleteLink(ep.link.name)))
	}
	return ep.deleteInside(ns)
}
