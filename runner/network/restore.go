package network

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/network"
)

// Restore takes over the containers that are alive after a restart, as Connect
// described them, and clears whatever else of this instance is on the host:
// interfaces, rules, ports and addresses of containers that ended, or were half
// made, while no daemon ran. What cannot be taken over, such as a port that a
// program of the host has taken meanwhile, is logged; its container stays.
func (m *Manager) Restore(ctx context.Context, alive []Attached) error {
	for _, at := range alive {
		m.adopt(at)
	}
	m.adoptServices()
	if err := m.clearLinks(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := m.rules.reconcile(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	m.serveAdopted(ctx, alive)
	m.warnOfForwardPolicies()
	return ctx.Err()
}

// adopt takes over one container.
func (m *Manager) adopt(at Attached) {
	log := m.log.With("container", at.Name)
	a := &attachment{id: at.ContainerID, name: at.Name, hostname: at.Hostname, dns: at.DNS, ports: at.Endpoint.Ports}
	m.mu.Lock()
	if _, ok := m.attached[a.id]; ok {
		m.mu.Unlock()
		return
	}
	m.attached[a.id] = a
	for _, name := range slices.Sorted(maps.Keys(at.Endpoint.Networks)) {
		es := at.Endpoint.Networks[name]
		n := m.find(name)
		if n == nil || es == nil {
			log.Warn("the network of a running container is gone", "network", name)
			continue
		}
		ep := m.adoptEndpoint(n, a, es, log.Warn)
		a.endpoints = append(a.endpoints, ep)
	}
	m.mu.Unlock()
	if !a.plugged() {
		return
	}
	to := targetOf(a.endpoints)
	reserved, errs := m.ports.adopt(at.Endpoint.Ports, to.publisher(at.Name))
	for _, err := range errs {
		log.Warn("a published port is not bound on the host", "error", err)
	}
	m.mu.Lock()
	a.target, a.reserved = to, reserved
	m.mu.Unlock()
	err := m.redirect(to.leads(reserved), func() error {
		m.rules.adopt(bindings(reserved, to))
		return nil
	})
	if err != nil {
		log.Warn("a published port is not served", "error", err)
	}
}

// adoptEndpoint takes over a container's place in a network. The manager must be
// locked.
func (m *Manager) adoptEndpoint(n *lan, a *attachment, es *network.EndpointSettings, warn func(string, ...any)) *endpoint {
	ep := &endpoint{lan: n, holder: a.id, name: a.name, settings: es}
	n.endpoints[a.id] = ep
	n.names.add(ep)
	if !n.wired() {
		return ep
	}
	ep.link = &link{}
	if len(es.EndpointID) >= 7 {
		ep.link.name = m.linkName(es.EndpointID)
	}
	mark := func(addr netip.Addr, p *pool) netip.Addr {
		if !addr.IsValid() || p == nil {
			return netip.Addr{}
		}
		if err := p.adopt(addr, a.name); err != nil {
			warn("address of a running container", "error", err)
		}
		return addr
	}
	ep.link.v4, ep.link.v6 = mark(es.IPAddress, n.v4), mark(es.GlobalIPv6Address, n.v6)
	return ep
}

// clearLinks deletes the interfaces of this instance that no container has.
func (m *Manager) clearLinks() error {
	list, err := listLinks(m.linkPrefix())
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	m.mu.Lock()
	for _, a := range m.attached {
		for _, ep := range a.endpoints {
			if ep.link != nil {
				keep[ep.link.name] = true
			}
		}
	}
	m.mu.Unlock()
	var left []string
	for _, name := range list {
		if !keep[name] {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	m.log.Info("deleting interfaces of containers that are gone", "count", len(left))
	return deleteLinks(m.host, left, m.group)
}
