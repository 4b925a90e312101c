package deploy

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// setTraffic makes services what the traffic has of a stack.
func (u *unit) setTraffic(ctx context.Context, services []runner.Service) error {
	u.traffic.Lock()
	defer u.traffic.Unlock()
	return u.sendTraffic(ctx, services)
}

// sendTraffic must be called with traffic locked.
func (u *unit) sendTraffic(ctx context.Context, services []runner.Service) error {
	told := u.standing(services)
	ports, err := u.m.engine.SetTraffic(ctx, Owner(u.name), told)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wanted, u.told, u.ports = services, told, ports
	return nil
}

// entry is what the traffic has of a service.
func entry(svc *Service, backends []runner.Backend) runner.Service {
	return runner.Service{Name: svc.Name, Ports: svc.Ports, Aliases: aliases(svc), Backends: backends}
}

// aliases returns the names that a service has in its networks.
func aliases(svc *Service) map[string][]string {
	found := map[string][]string{}
	if cfg := svc.Container.NetworkingConfig; cfg != nil {
		for name, endpoint := range cfg.EndpointsConfig {
			names := []string{svc.Name}
			if endpoint != nil {
				for _, alias := range endpoint.Aliases {
					if !slices.Contains(names, alias) {
						names = append(names, alias)
					}
				}
			}
			found[name] = names
		}
	}
	if hc := svc.Container.HostConfig; hc != nil && len(found) == 0 && hc.NetworkMode.IsUserDefined() {
		found[hc.NetworkMode.NetworkName()] = []string{svc.Name}
	}
	for _, own := range []string{"bridge", "default", "host", "none"} {
		delete(found, own) // they have no names
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

// even gives each replica the same part of the traffic; those that are unhealthy or do
// not run get none, unless all are.
func even(list []replica) []runner.Backend {
	var backends []runner.Backend
	some := false
	for _, r := range list {
		weight := 0
		if r.running() && r.Health != container.Unhealthy {
			weight, some = 1, true
		}
		backends = append(backends, runner.Backend{Container: r.ID, Weight: weight})
	}
	if !some {
		for i := range backends {
			backends[i].Weight = 1
		}
	}
	return backends
}

// split gives the new replicas a part of the traffic in percent, and the old the rest.
func split(old, fresh []replica, percent int) []runner.Backend {
	a, b := (100-percent)*len(fresh), percent*len(old)
	if g := gcd(a, b); g > 1 {
		a, b = a/g, b/g
	}
	var backends []runner.Backend
	for _, r := range old {
		backends = append(backends, runner.Backend{Container: r.ID, Weight: a})
	}
	for _, r := range fresh {
		backends = append(backends, runner.Backend{Container: r.ID, Weight: b})
	}
	return backends
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// leadsTo says whether the traffic of a stack goes to the containers of a target by
// service, and to no others.
func leadsTo(services []runner.Service, target map[string][]string) bool {
	if len(services) != len(target) {
		return false
	}
	for _, s := range services {
		want, ok := target[s.Name]
		led := len(want) == 0
		for _, b := range s.Backends {
			switch {
			case b.Weight == 0:
			case !slices.Contains(want, b.Container):
				return false
			default:
				led = true
			}
		}
		if !ok || !led {
			return false
		}
	}
	return true
}

// setRoutes tells the edge of the routes of a stack, with those who answer as the
// traffic has them.
func (u *unit) setRoutes(ctx context.Context, stack *Stack, services []runner.Service) error {
	if u.m.edge == nil {
		return nil
	}
	routes, err := u.routesOf(ctx, stack, services)
	if err != nil {
		return err
	}
	return u.tellRoutes(ctx, routes)
}

// checkRoutes asks the edge whether it would take the routes of a stack.
func (m *Manager) checkRoutes(ctx context.Context, stack *Stack) error {
	var routes []EdgeRoute
	for _, svc := range stack.Services {
		for _, route := range svc.Routes {
			routes = append(routes, EdgeRoute{Service: svc.Name, Route: route})
		}
	}
	if m.edge == nil || len(routes) == 0 {
		return nil
	}
	return m.edge.CheckRoutes(ctx, Owner(stack.Name), routes)
}

func (u *unit) tellRoutes(ctx context.Context, routes []EdgeRoute) error {
	if u.m.edge == nil {
		return nil
	}
	u.mu.Lock()
	nothing := u.routed && len(routes) == 0 && len(u.routes) == 0
	u.mu.Unlock()
	if nothing {
		return nil
	}
	if err := u.m.edge.SetRoutes(ctx, Owner(u.name), routes); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.routes, u.routed = routes, true
	return nil
}

func (u *unit) routesOf(ctx context.Context, stack *Stack, services []runner.Service) ([]EdgeRoute, error) {
	var routes []EdgeRoute
	if stack == nil {
		return nil, nil
	}
	for i := range stack.Services {
		svc := &stack.Services[i]
		if len(svc.Routes) == 0 {
			continue
		}
		var backends []runner.Backend
		for _, s := range services {
			if s.Name == svc.Name {
				backends = s.Backends
			}
		}
		addrs, err := u.addresses(ctx, backends)
		if err != nil {
			return nil, err
		}
		for _, route := range svc.Routes {
			r := EdgeRoute{Service: svc.Name, Route: route}
			for i, b := range backends {
				if addrs[i].IsValid() && b.Weight > 0 {
					r.Upstreams = append(r.Upstreams, Upstream{ID: b.Container, Addr: netip.AddrPortFrom(addrs[i], uint16(route.Port)), Weight: b.Weight})
				}
			}
			routes = append(routes, r)
		}
	}
	return routes, nil
}

// addresses returns the address of each backend; one that does not run has none.
func (u *unit) addresses(ctx context.Context, backends []runner.Backend) ([]netip.Addr, error) {
	addrs := make([]netip.Addr, len(backends))
	for i, b := range backends {
		info, err := u.m.engine.InspectContainer(ctx, b.Container, false)
		if errors.Is(err, runner.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.State != nil && info.State.Running {
			addrs[i] = addressOf(info)
		}
	}
	return addrs, nil
}
