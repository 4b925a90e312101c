package deploy

import (
	"context"
	"slices"
	"sync"

	"github.com/berth-registry/berth/runner"
)

// live is the traffic of a stack while it is deployed.
type live struct {
	u        *unit
	mu       sync.Mutex
	services []runner.Service
}

// set makes one service what the traffic has of it.
func (l *live) set(ctx context.Context, s runner.Service) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	services := slices.Clone(l.services)
	i := slices.IndexFunc(services, func(other runner.Service) bool { return other.Name == s.Name })
	if i < 0 {
		services = append(services, s)
	} else {
		services[i] = s
	}
	if err := l.u.setTraffic(ctx, services); err != nil {
		return err
	}
	l.services = services
	return nil
}

// leadsTo says whether a container is behind a service.
func (l *live) leadsTo(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.services, func(s runner.Service) bool {
		return slices.ContainsFunc(s.Backends, func(b runner.Backend) bool { return b.Container == id })
	})
}
