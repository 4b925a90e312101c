package network

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// owned is what an owner of services has. It does not change.
type owned struct {
	services []runner.Service
	given    []given // one for each service
}

func (o *owned) ports() (list []published) {
	if o == nil {
		return nil
	}
	for _, g := range o.given {
		list = append(list, g.ports...)
	}
	return list
}

// SetServices replaces the services of an owner, and returns the ports of the host
// that each was given, by its name. When it returns they are on disk, and new
// connections go to the backends that have a weight and an address; established ones
// stay where they are. All services of the owner are switched in one transaction.
//
// A port of the host that is taken is runner.ErrConflict, a network of an alias that
// is not there runner.ErrNotFound. If it fails, all is as before.
func (m *Manager) SetServices(owner string, list []runner.Service) (map[string]network.PortMap, error) {
	if err := m.checkServices(owner, list); err != nil {
		return nil, err
	}
	m.switching.Lock()
	defer m.switching.Unlock()
	return m.setServices(owner, list)
}

// setServices must be called with switching locked.
func (m *Manager) setServices(owner string, list []runner.Service) (map[string]network.PortMap, error) {
	m.mu.Lock()
	before := m.services[owner]
	host := m.hostBinding(list)
	m.mu.Unlock()
	al, err := m.ports.allot(before.orders(owner, host, list), before.ports())
	if err != nil {
		return nil, conflictOf(err)
	}
	next := &owned{services: cloneServices(list), given: al.given}
	if err := m.switchServices(owner, next, al); err != nil {
		al.undo()
		return nil, err
	}
	al.done()
	m.wg.Go(m.forgetStrays)
	ports := map[string]network.PortMap{}
	for i, s := range list {
		ports[s.Name] = al.given[i].shown
	}
	return ports, nil
}

// switchServices puts what an owner is to have on disk, and then in force.
func (m *Manager) switchServices(owner string, next *owned, al *allotment) error {
	m.mu.Lock()
	all := maps.Clone(m.services)
	m.mu.Unlock()
	if all[owner] = next; len(next.services) == 0 {
		delete(all, owner)
	} else {
		m.forgetResets()
	}
	if err := m.saveServices(all); err != nil {
		return err
	}
	m.mu.Lock()
	m.backends = backendsOf(all) // those that are connected from now on are seen to
	leads := m.leadsOf(next, nil)
	m.mu.Unlock()
	err := m.redirect(leads, func() error { return m.rules.lead(ruled(leads), portsAt(al.gone)) })
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.services, m.aliases = all, aliasesOf(all)
		return nil
	}
	m.backends = backendsOf(m.services)
	return errors.Join(fmt.Errorf("switch the services of %s: %w", owner, err), m.saveServices(m.services))
}

// Services returns the services of an owner as they were set.
func (m *Manager) Services(owner string) []runner.Service {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o := m.services[owner]; o != nil {
		return cloneServices(o.services)
	}
	return nil
}

// Forget takes a container that is removed out of all services.
func (m *Manager) Forget(containerID string) error {
	if !m.isBackend(containerID) {
		return nil
	}
	m.switching.Lock()
	defer m.switching.Unlock()
	m.mu.Lock()
	changed := map[string][]runner.Service{}
	for owner, o := range m.services {
		if !slices.ContainsFunc(o.services, func(s runner.Service) bool { return hasBackend(s, containerID) }) {
			continue
		}
		list := cloneServices(o.services)
		for i := range list {
			list[i].Backends = slices.DeleteFunc(list[i].Backends, func(b runner.Backend) bool { return b.Container == containerID })
		}
		changed[owner] = list
	}
	m.mu.Unlock()
	var errs []error
	for owner, list := range changed {
		_, err := m.setServices(owner, list)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (m *Manager) isBackend(containerID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.backends[containerID]
}

// follow brings what leads to a container in line with the addresses that it has
// now, or with that it has none.
func (m *Manager) follow(containerID string) error {
	if !m.isBackend(containerID) {
		return nil
	}
	m.switching.Lock()
	defer m.switching.Unlock()
	m.mu.Lock()
	var leads []redirection
	for _, o := range m.services {
		leads = append(leads, m.leadsOf(o, func(s runner.Service) bool { return hasBackend(s, containerID) })...)
	}
	m.mu.Unlock()
	return m.redirect(leads, func() error { return m.rules.lead(ruled(leads), nil) })
}

func hasBackend(s runner.Service, id string) bool {
	return slices.ContainsFunc(s.Backends, func(b runner.Backend) bool { return b.Container == id })
}

// leadsOf returns where ports of services lead now. The manager must be locked.
func (m *Manager) leadsOf(o *owned, chosen func(runner.Service) bool) (list []redirection) {
	for i, s := range o.services {
		if chosen != nil && !chosen(s) {
			continue
		}
		var to []weighted
		for _, b := range s.Backends {
			if a := m.attached[b.Container]; a != nil {
				to = append(to, weighted{a.target, uint32(b.Weight)})
			}
		}
		for _, p := range o.given[i].ports {
			list = append(list, redirection{p.reservation, leadOf(p.portAt, p.inner, to)})
		}
	}
	return list
}

func ruled(list []redirection) map[portAt][]share {
	to := make(map[portAt][]share, len(list))
	for _, r := range list {
		to[r.portAt] = r.ruled()
	}
	return to
}

func portsAt(list []*reservation) (out []portAt) {
	for _, r := range list {
		out = append(out, r.portAt)
	}
	return out
}

// hostBinding is the address of the host that networks of the backends want for
// ports that name none; not valid: all. The manager must be locked.
func (m *Manager) hostBinding(list []runner.Service) netip.Addr {
	for _, s := range list {
		for _, b := range s.Backends {
			if a := m.attached[b.Container]; a != nil && a.target.host.IsValid() {
				return a.target.host
			}
		}
	}
	return netip.Addr{}
}

// orders are the ports that services ask for: those that the engine chose before
// for the same ones are asked for again.
func (o *owned) orders(owner string, host netip.Addr, list []runner.Service) (orders []order) {
	for _, s := range list {
		asked := s.Ports
		if o != nil {
			if i := slices.IndexFunc(o.services, func(had runner.Service) bool { return had.Name == s.Name }); i >= 0 {
				asked = keptPorts(s.Ports, o.services[i].Ports, o.given[i].shown)
			}
		}
		orders = append(orders, order{publisher{holder: "service " + s.Name + " of " + owner, host: host}, asked})
	}
	return orders
}

// keptPorts returns the bindings asked for: those of container ports whose bindings
// are as they were before, as they were given then.
func keptPorts(asked, before, given network.PortMap) network.PortMap {
	merged := maps.Clone(asked)
	for port, bindings := range asked {
		if len(given[port]) > 0 && slices.Equal(bindings, before[port]) {
			merged[port] = given[port]
		}
	}
	return merged
}

// conflictOf makes what allot returns an error of its kind.
func conflictOf(err error) error {
	if errors.Is(err, runner.ErrInvalid) {
		return err
	}
	return runner.Errorf(runner.ErrConflict, "%w", err)
}

// checkServices returns an error for what cannot be.
func (m *Manager) checkServices(owner string, list []runner.Service) error {
	if owner == "" {
		return runner.Errorf(runner.ErrInvalid, "services must have an owner")
	}
	names := map[string]bool{}
	for _, s := range list {
		if s.Name == "" || names[s.Name] {
			return runner.Errorf(runner.ErrInvalid, "service %q of %s: the name must be unique, and not empty", s.Name, owner)
		}
		names[s.Name] = true
		if err := m.checkService(s); err != nil {
			return fmt.Errorf("service %s of %s: %w", s.Name, owner, err)
		}
	}
	return nil
}

func (m *Manager) checkService(s runner.Service) error {
	known := map[string]bool{}
	sum := 0
	for _, b := range s.Backends {
		if b.Container == "" || known[b.Container] {
			return runner.Errorf(runner.ErrInvalid, "backend %q: it must be a container's ID, and be there once", b.Container)
		}
		known[b.Container] = true
		if b.Weight < 0 || b.Weight > math.MaxInt32-sum {
			return runner.Errorf(runner.ErrInvalid, "backend %s: a weight of %d", b.Container, b.Weight)
		}
		sum += b.Weight
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, aliases := range s.Aliases {
		n := m.find(name)
		switch {
		case n == nil:
			return notFound(name)
		case !n.userDefined():
			return runner.Errorf(runner.ErrInvalid, "network-scoped aliases are only supported for user-defined networks")
		case slices.Contains(aliases, ""):
			return runner.Errorf(runner.ErrInvalid, "an alias in network %s is empty", name)
		}
	}
	return nil
}

// backendsOf returns the containers that are behind services.
func backendsOf(all map[string]*owned) map[string]bool {
	ids := map[string]bool{}
	for _, o := range all {
		for _, s := range o.services {
			for _, b := range s.Backends {
				ids[b.Container] = true
			}
		}
	}
	return ids
}

// aliasesOf returns the containers that are found by a name of services, in lower
// case, in a network.
func aliasesOf(all map[string]*owned) map[string]map[string][]string {
	found := map[string]map[string][]string{}
	for _, o := range all {
		for _, s := range o.services {
			for name, aliases := range s.Aliases {
				if found[name] == nil {
					found[name] = map[string][]string{}
				}
				for _, alias := range aliases {
					key := strings.ToLower(alias)
					for _, b := range s.Backends {
						if b.Weight > 0 && !slices.Contains(found[name][key], b.Container) {
							found[name][key] = append(found[name][key], b.Container)
						}
					}
				}
			}
		}
	}
	return found
}

func cloneServices(list []runner.Service) []runner.Service {
	out := slices.Clone(list)
	for i, s := range out {
		out[i].Backends = slices.Clone(s.Backends)
		out[i].Ports = maps.Clone(s.Ports)
		out[i].Aliases = maps.Clone(s.Aliases)
	}
	return out
}
