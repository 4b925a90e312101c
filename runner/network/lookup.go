package network

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-registry/berth/runner/network/names"
)

// nameTable finds the endpoints of a network that have a name, in lower case.
type nameTable map[string][]*endpoint

func (t nameTable) add(ep *endpoint) {
	for _, name := range ep.settings.DNSNames {
		key := strings.ToLower(name)
		if !slices.Contains(t[key], ep) {
			t[key] = append(t[key], ep)
		}
	}
}

func (t nameTable) remove(ep *endpoint) {
	for _, name := range ep.settings.DNSNames {
		key := strings.ToLower(name)
		rest := slices.DeleteFunc(t[key], func(o *endpoint) bool { return o == ep })
		if len(rest) == 0 {
			delete(t, key)
		} else {
			t[key] = rest
		}
	}
}

// dnsNames are the names of a container in a network of a user: its own first.
func dnsNames(a *attachment, aliases []string) []string {
	var list []string
	for _, name := range append(append([]string{a.name}, aliases...), a.id[:min(12, len(a.id))], a.hostname) {
		if name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// Lookup returns what a name means for a container: the addresses of the
// containers of that name, alias or short ID in a network of a user that it is on
// itself, and in it of what the endpoint links to. Of several networks the first
// that knows the name answers, in the order in which they would be its gateway.
// NAME.NETWORK asks one of them. Names are found in any case.
func (m *Manager) Lookup(containerID, name string) (a names.Answer, found bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	own := m.ordered(containerID)
	for _, ep := range own {
		if list, moves := m.finds(ep, name); len(list) > 0 {
			return answerOf(list, moves), true
		}
	}
	for _, ep := range own {
		if inner, ok := strings.CutSuffix(name, "."+strings.ToLower(ep.lan.Name)); ok {
			if list, moves := m.finds(ep, inner); len(list) > 0 {
				return answerOf(list, moves), true
			}
		}
	}
	return names.Answer{}, false
}

// ordered returns a container's endpoints in networks of users, the likelier
// gateway first. The manager must be locked.
func (m *Manager) ordered(containerID string) []*endpoint {
	a := m.attached[containerID]
	if a == nil {
		return nil
	}
	list := slices.DeleteFunc(slices.Clone(a.endpoints), func(ep *endpoint) bool { return !ep.lan.userDefined() })
	slices.SortFunc(list, func(a, b *endpoint) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	return list
}

// finds returns the endpoints that a name means in the network of one, and whether
// they are those of a service.
func (m *Manager) finds(ep *endpoint, name string) (list []*endpoint, moves bool) {
	for _, l := range ep.settings.Links {
		target, alias, ok := strings.Cut(l, ":")
		if !ok {
			alias = target
		}
		if !strings.EqualFold(alias, name) {
			continue
		}
		target = strings.ToLower(strings.TrimPrefix(target, "/"))
		if list, moves = m.named(ep.lan, target); len(list) > 0 {
			return list, moves
		}
		return ep.lan.names[target[:min(12, len(target))]], false // a whole ID
	}
	return m.named(ep.lan, name)
}

// named returns the endpoints that have a name in a network: of themselves, or by a
// service, which moves says.
func (m *Manager) named(n *lan, name string) (list []*endpoint, moves bool) {
	own := n.names[name]
	list = slices.Clip(own)
	behind := m.aliases[n.Name][name]
	for _, id := range behind {
		if ep := n.endpoints[id]; ep != nil && m.attached[id] != nil && !slices.Contains(own, ep) {
			list = append(list, ep)
		}
	}
	return list, len(behind) > 0
}

func answerOf(list []*endpoint, moves bool) names.Answer {
	a := names.Answer{Moves: moves}
	for _, ep := range list {
		if ep.link == nil {
			continue
		}
		if ep.link.v4.IsValid() {
			a.V4 = append(a.V4, ep.link.v4)
		}
		if ep.link.v6.IsValid() {
			a.V6 = append(a.V6, ep.link.v6)
		}
	}
	return a
}

// Reverse returns the name of the container that has an address in a network of a
// user that the asking one is on too, as NAME.NETWORK.
func (m *Manager) Reverse(containerID string, addr netip.Addr) (name string, found bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	addr = addr.Unmap()
	for _, own := range m.ordered(containerID) {
		if !slices.ContainsFunc(own.lan.subnets(), func(p netip.Prefix) bool { return p.Contains(addr) }) {
			continue
		}
		for _, ep := range own.lan.endpoints {
			if ep.link != nil && (ep.link.v4 == addr || ep.link.v6 == addr) && len(ep.settings.DNSNames) > 0 {
				return ep.settings.DNSNames[0] + "." + own.lan.Name, true
			}
		}
	}
	return "", false
}

// External says whether a container is on a network that leads out, so that its
// questions for other names may be passed on.
func (m *Manager) External(containerID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.attached[containerID]
	return a != nil && slices.ContainsFunc(a.endpoints, func(ep *endpoint) bool { return !ep.lan.Internal })
}

// Rename gives a connected container another name and returns what it has then;
// ok is false if it is not connected.
func (m *Manager) Rename(containerID, name string) (given Endpoint, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.attached[containerID]
	if a == nil {
		return Endpoint{}, false
	}
	a.name = name
	for _, ep := range a.endpoints {
		ep.lan.names.remove(ep)
		ep.name = name
		es := ep.settings.Copy() // others may be looking at it
		if ep.lan.userDefined() {
			es.DNSNames = dnsNames(a, es.Aliases)
		}
		ep.settings = es
		ep.lan.names.add(ep)
	}
	return a.given(), true
}
