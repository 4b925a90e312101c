package network

import (
	"context"
	"fmt"
	"net/netip"

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
	if err := m.clearLinks(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if err := m.rules.rebuild(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	m.warnOfForwardPolicies()
	return ctx.Err()
}

// adopt takes over one container.
func (m *Manager) adopt(at Attached) {
	log := m.log.With("container", at.Name)
	a := &attachment{id: at.ContainerID, name: at.Name, endpoint: at.Endpoint}
	es := at.Endpoint.Networks[network.NetworkBridge]
	if es != nil {
		a.link = &link{v4: es.IPAddress, v6: es.GlobalIPv6Address}
		if len(es.EndpointID) >= 7 {
			a.link.name = m.linkName(es.EndpointID)
		}
	}
	m.mu.Lock()
	if _, ok := m.attached[a.id]; ok {
		m.mu.Unlock()
		return
	}
	m.attached[a.id] = a
	if es != nil {
		m.bridge.adopt(a.link, at.Name, log.Warn)
	}
	m.mu.Unlock()
	if es != nil {
		var errs []error
		a.reserved, errs = m.ports.adopt(at.Name, at.Endpoint.Ports, a.link)
		for _, err := range errs {
			log.Warn("a published port is not bound on the host", "error", err)
		}
		m.rules.adopt(bindings(a.reserved))
	}
}

// adopt marks addresses as used. It must be called with the manager locked.
func (b *bridge) adopt(l *link, holder string, warn func(string, ...any)) {
	if err := b.v4.take(l.v4, holder); err != nil {
		warn("address of a running container", "error", err)
	} else if b.v4.last.Less(l.v4) {
		b.v4.last = l.v4
	}
	if b.v6 == nil || !l.v6.IsValid() {
		l.v6 = netip.Addr{}
		return
	}
	if err := b.v6.take(l.v6, holder); err != nil {
		warn("address of a running container", "error", err)
	}
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
		if a.onBridge() {
			keep[a.link.name] = true
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
