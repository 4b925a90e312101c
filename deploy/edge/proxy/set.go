package proxy

import (
	"maps"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/runner"
)

// Set replaces the routes of an owner; none lets go of all. When it returns they are on
// disk and in force. It fails with runner.ErrInvalid, with runner.ErrConflict if another
// owner has a host and path of them, and with runner.ErrUnavailable if this one has
// retired; then all is as it was.
func (p *Proxy) Set(owner string, routes []deploy.EdgeRoute) error {
	own, err := p.normal(routes)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired.Load() {
		return runner.Errorf(runner.ErrUnavailable, "this edge has retired")
	}
	owners, err := p.withOwner(owner, own)
	if err != nil {
		return err
	}
	next, err := p.build(owners)
	if err != nil {
		return err
	}
	if err := p.certs.internal.make(p.certs.wanted(owners)[deploy.TLSInternal]); err != nil {
		return err
	}
	if err := edge.SaveRoutes(p.o, owners); err != nil {
		return err
	}
	p.put(owners, next)
	return nil
}

// Check says whether Set would take the routes of an owner.
func (p *Proxy) Check(owner string, routes []deploy.EdgeRoute) error {
	own, err := p.normal(routes)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.withOwner(owner, own)
	return err
}

// normal returns routes as the proxy has them.
func (p *Proxy) normal(routes []deploy.EdgeRoute) ([]deploy.EdgeRoute, error) {
	own := make([]deploy.EdgeRoute, 0, len(routes))
	for _, r := range routes {
		n, err := normal(r)
		if err == nil {
			err = certifiable(n, p.o.HTTPS != "", p.certs.has)
		}
		if err != nil {
			return nil, err
		}
		own = append(own, n)
	}
	return own, nil
}

// withOwner returns the routes of all, of which an owner has others.
func (p *Proxy) withOwner(owner string, routes []deploy.EdgeRoute) (map[string][]deploy.EdgeRoute, error) {
	owners := maps.Clone(p.owners)
	if owners[owner] = routes; len(routes) == 0 {
		delete(owners, owner)
	}
	return owners, disjoint(owners, owner)
}

// reload puts in force what is on disk.
func (p *Proxy) reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	owners, err := edge.LoadRoutes(p.o)
	if err != nil {
		return err
	}
	next, err := p.build(owners)
	if err == nil {
		err = p.certs.internal.make(p.certs.wanted(owners)[deploy.TLSInternal])
	}
	if err == nil {
		p.put(owners, next)
	}
	return err
}

// put puts a table in force, and lets go of what it does not need. Certificates that
// others issue are obtained from then on.
func (p *Proxy) put(owners map[string][]deploy.EdgeRoute, next *table) {
	wanted := p.certs.wanted(owners)
	p.owners = owners
	p.table.Swap(next).settle()
	p.certs.internal.keep(wanted[deploy.TLSInternal])
	p.certs.acme.keep(wanted[deploy.TLSAuto])
	p.certs.acme.obtain(wanted[deploy.TLSAuto])
	p.sweep(owners)
}

// sweep forgets handlers that no route has any more, and replicas that neither have a
// route nor a request. Requests that a handler has go on.
func (p *Proxy) sweep(owners map[string][]deploy.EdgeRoute) {
	keys, present, services := map[string]bool{}, map[replicaKey]bool{}, map[serviceKey]bool{}
	for owner, routes := range owners {
		for _, r := range routes {
			keys[keyOf(owner, r)] = true
			services[serviceKey{owner, r.Service}] = true
			for _, u := range r.Upstreams {
				present[replicaKey{u.ID, u.Addr}] = true
			}
		}
	}
	for key, r := range p.routes {
		if !keys[key] {
			r.cancel()
			delete(p.routes, key)
		}
	}
	maps.DeleteFunc(p.stats, func(key serviceKey, _ *stats) bool { return !services[key] })
	maps.DeleteFunc(p.replicas, func(key replicaKey, r *replica) bool { return !present[key] && r.requests() == 0 })
}
