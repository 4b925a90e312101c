package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// Remove removes a network that no container is connected to, and returns what it
// was. One in use or predefined is runner.ErrForbidden.
func (m *Manager) Remove(_ context.Context, ref string) (network.Inspect, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.mu.Lock()
	n, err := m.resolve(ref)
	if err == nil {
		err = n.removable()
	}
	if err != nil {
		m.mu.Unlock()
		return network.Inspect{}, err
	}
	was := n.inspect()
	all := m.lans
	rest := slices.DeleteFunc(slices.Clone(all), func(o *lan) bool { return o == n })
	m.lans = rest // from here on nobody is connected to it
	m.mu.Unlock()
	// The record goes last: a daemon that ends before finds the network whole.
	inherit(n, rest)
	err = n.drop(m.host)
	if err == nil && n.bridged() {
		err = m.rules.shut(n.segment())
	}
	if err == nil {
		err = m.save(rest)
	}
	if err == nil {
		return was, nil
	}
	err = fmt.Errorf("error while removing network: %w", err)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lans = all
	n.lost = errors.New("it could not be removed whole") // who is connected next puts it right
	if n.bridged() {
		m.rules.expect(n.segment())
	}
	return network.Inspect{}, err
}

// removable says why a network is not removed. The manager must be locked.
func (n *lan) removable() error {
	if !n.userDefined() {
		return runner.Errorf(runner.ErrForbidden, "%s is a pre-defined network and cannot be removed", n.Name)
	}
	if len(n.endpoints) == 0 {
		return nil
	}
	var users []string
	for _, id := range slices.Sorted(maps.Keys(n.endpoints)) {
		ep := n.endpoints[id]
		users = append(users, fmt.Sprintf("name:%q id:%q", ep.name, ep.settings.EndpointID[:min(12, len(ep.settings.EndpointID))]))
	}
	return runner.Errorf(runner.ErrForbidden, "error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(users, ", "))
}

// inherit leaves the parent that a network has made to another that uses it.
func inherit(n *lan, others []*lan) {
	if n.bridged() || n.Borrowed {
		return
	}
	for _, o := range others {
		if !o.bridged() && o.Interface == n.Interface {
			o.Borrowed, n.Borrowed = false, true
			return
		}
	}
}

// Prune removes the networks of users that nobody is connected to and that the
// filters choose: until, label and label!. It returns what they were.
func (m *Manager) Prune(ctx context.Context, before time.Time, chosen func(labels map[string]string) bool) ([]network.Inspect, error) {
	m.mu.Lock()
	var ids []string
	for _, n := range m.lans {
		if n.removable() == nil && chosen(n.Labels) && (before.IsZero() || n.Created.Before(before)) {
			ids = append(ids, n.ID)
		}
	}
	m.mu.Unlock()
	var removed []network.Inspect
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		was, err := m.Remove(ctx, id)
		switch {
		case err == nil:
			removed = append(removed, was)
		case errors.Is(err, runner.ErrForbidden), errors.Is(err, runner.ErrNotFound): // meanwhile
		default:
			return removed, err
		}
	}
	return removed, nil
}
