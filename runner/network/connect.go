package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// attachment is what a container has been given.
type attachment struct {
	id, name string
	endpoint Endpoint
	link     *link // nil unless it is on a bridge
	reserved []*reservation
}

// link is a container's interface on the host, and the addresses that go with it.
type link struct {
	name   string
	v4, v6 netip.Addr
}

func (a *attachment) onBridge() bool { return a != nil && a.link != nil }

// Connect connects a container to the networks it asks for, all or nothing, and
// returns what it got; the caller keeps that for Restore. From then on the
// container is reached: the first packet is not lost. A port that is taken is an
// error that names the holder.
func (m *Manager) Connect(ctx context.Context, req Request) (Endpoint, error) {
	name, asked, err := m.check(req)
	if err != nil {
		return Endpoint{}, err
	}
	if err := m.begin(req.ContainerID); err != nil {
		return Endpoint{}, err
	}
	a := &attachment{id: req.ContainerID, name: req.Name}
	got := asked.Copy()
	got.NetworkID, got.EndpointID = m.record(name).ID, newID()
	if name == network.NetworkBridge {
		err = m.attach(ctx, a, req, got)
	} else {
		a.endpoint.Ports = network.PortMap{}
	}
	a.endpoint.Networks = map[string]*network.EndpointSettings{name: got}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		delete(m.attached, a.id)
		return Endpoint{}, err
	}
	m.attached[a.id] = a
	return a.endpoint, nil
}

// check returns the one network that is asked for, with what is wished of it.
func (m *Manager) check(req Request) (string, *network.EndpointSettings, error) {
	if len(req.Networks) != 1 {
		return "", nil, runner.Errorf(runner.ErrNotImplemented, "a container in %d networks is not supported: it has to be in one", len(req.Networks))
	}
	for name, es := range req.Networks {
		if name == network.NetworkDefault {
			name = network.NetworkBridge
		}
		if m.record(name) == nil {
			return "", nil, runner.Errorf(runner.ErrNotFound, "network %s not found", name)
		}
		if es == nil {
			es = &network.EndpointSettings{}
		}
		if err := unsupported(name, es); err != nil {
			return "", nil, err
		}
		if name == network.NetworkBridge && req.NetNS == nil {
			return "", nil, errors.New("network: a bridge needs the container's network namespace")
		}
		return name, es, nil
	}
	return "", nil, nil
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

// attach connects a container to the bridge. It completes got.
func (m *Manager) attach(ctx context.Context, a *attachment, req Request, got *network.EndpointSettings) (err error) {
	b := m.bridge
	l := &link{name: m.linkName(got.EndpointID)}
	if err := m.giveAddresses(ctx, l, got.IPAMConfig, req.Name); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.takeAddresses(l)
		}
	}()
	a.reserved, a.endpoint.Ports, err = m.ports.allocate(req.Name, req.Ports, l)
	if err == nil {
		err = m.rules.publish(bindings(a.reserved))
	}
	if err != nil {
		m.ports.release(a.reserved)
		return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", req.Name, got.EndpointID, err)
	}
	m.settings(got, l)
	p := plug{host: l.name, guest: "eth0", bridge: b, mtu: b.mtu, mac: got.MacAddress}
	p.addrs = append(p.addrs, address{netip.PrefixFrom(l.v4, b.Subnet.Bits()), b.v4.gateway})
	if l.v6.IsValid() {
		p.addrs = append(p.addrs, address{netip.PrefixFrom(l.v6, b.Subnet6.Bits()), b.v6.gateway})
	}
	if err = p.connect(m.host, req.NetNS); err != nil {
		err = errors.Join(err, m.rules.withdraw(bindings(a.reserved)))
		m.ports.release(a.reserved)
		return fmt.Errorf("connect container %s: %w", req.Name, err)
	}
	a.link = l
	m.wg.Go(func() { m.forgetFlows(a.reserved, l, false) })
	return nil
}

// settings completes what inspect shows.
func (m *Manager) settings(got *network.EndpointSettings, l *link) {
	b := m.bridge
	got.IPAddress, got.IPPrefixLen, got.Gateway = l.v4, b.Subnet.Bits(), b.v4.gateway
	if len(got.MacAddress) == 0 {
		got.MacAddress = macOf(l.v4)
	}
	if l.v6.IsValid() {
		got.GlobalIPv6Address, got.GlobalIPv6PrefixLen, got.IPv6Gateway = l.v6, b.Subnet6.Bits(), b.v6.gateway
	}
}

func (m *Manager) linkName(endpointID string) string {
	return m.linkPrefix() + endpointID[:7]
}

func (m *Manager) linkPrefix() string { return "ve" + m.instance }

// giveAddresses gives a link the addresses wished for, or the next free ones. If
// none is free it waits for those of containers that have just ended.
func (m *Manager) giveAddresses(ctx context.Context, l *link, wish *network.EndpointIPAMConfig, holder string) error {
	if wish == nil {
		wish = &network.EndpointIPAMConfig{}
	}
	if wish.IPv6Address.IsValid() && m.bridge.v6 == nil {
		return runner.Errorf(runner.ErrInvalid, "the host has no IPv6, so that %s cannot be given", wish.IPv6Address)
	}
	for {
		m.mu.Lock()
		err := m.bridge.give(l, wish, holder)
		dying, released := m.dying, m.released
		m.mu.Unlock()
		if !errors.Is(err, runner.ErrUnavailable) || dying == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-released:
		}
	}
}

// give must be called with the manager locked.
func (b *bridge) give(l *link, wish *network.EndpointIPAMConfig, holder string) (err error) {
	if l.v4 = wish.IPv4Address; l.v4.IsValid() {
		err = b.v4.take(l.v4, holder)
	} else {
		l.v4, err = b.v4.next(holder)
	}
	if err != nil || b.v6 == nil {
		return err
	}
	if l.v6 = wish.IPv6Address; l.v6.IsValid() {
		err = b.v6.take(l.v6, holder)
	} else {
		l.v6, err = b.v6.beside(l.v4, b.v4, holder)
	}
	if err != nil {
		b.v4.release(l.v4)
	}
	return err
}

// takeAddresses must be called with the manager locked.
func (m *Manager) takeAddresses(l *link) {
	m.bridge.v4.release(l.v4)
	if l.v6.IsValid() {
		m.bridge.v6.release(l.v6)
	}
	close(m.released)
	m.released = make(chan struct{})
}

// Disconnect takes from a container what Connect gave it, whether its namespace
// is still there or not. Its ports are free and its rules gone when it returns;
// the interface goes in the background, within a second or so, and its addresses
// are not given to others before. To disconnect a container that is not connected is no error.
func (m *Manager) Disconnect(_ context.Context, containerID string) error {
	m.mu.Lock()
	a := m.attached[containerID]
	if a == nil {
		m.mu.Unlock()
		return nil
	}
	delete(m.attached, containerID)
	if a.link != nil {
		m.dying++
		m.bridge.v4.leave(a.link.v4)
		if a.link.v6.IsValid() {
			m.bridge.v6.leave(a.link.v6)
		}
	}
	m.mu.Unlock()
	if a.link == nil {
		return nil
	}
	err := m.rules.withdraw(bindings(a.reserved))
	m.ports.release(a.reserved)
	m.wg.Go(func() {
		// Before the address is somebody else's, who would get its packets.
		m.forgetFlows(a.reserved, a.link, true)
		m.unplug(a.link)
	})
	if err != nil {
		return fmt.Errorf("disconnect container %s: %w", a.name, err)
	}
	return nil
}

// unplug returns when a link is gone. The namespace, which is about to end, takes
// it along: that costs nobody a wait, while to delete it takes tens of
// milliseconds during which no other can be made.
func (m *Manager) unplug(l *link) {
	const patience = 2 * time.Second
	cut := false
	for wait, begin := 5*time.Millisecond, time.Now(); exists(m.host, l.name); wait *= 2 {
		if !cut && wait > 20*time.Millisecond {
			_ = m.host.do(cutLink(l.name)) // it may be gone
			cut = true
		}
		if m.stopped.Err() != nil || time.Since(begin) > patience {
			if err := m.host.do(deleteLink(l.name)); err != nil && exists(m.host, l.name) {
				m.log.Warn("an interface is left", "interface", l.name, "error", err)
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
	m.takeAddresses(l)
}
