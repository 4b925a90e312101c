package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
)

// Proxy is the HTTP edge.
type Proxy struct {
	o         edge.Options
	limits    limits
	httpsPort string
	log       *slog.Logger
	ctx       caddy.Context // Caddy's, of its configuration
	transport *transport
	certs     *certs
	listeners listeners

	table    atomic.Pointer[table]
	retired  atomic.Bool
	requests atomic.Int64 // that are served now

	mu       sync.Mutex // one changes the routes at a time
	owners   map[string][]deploy.EdgeRoute
	routes   map[string]*route // by their keys
	replicas map[replicaKey]*replica
	stats    map[serviceKey]*stats
}

type replicaKey struct {
	id   string
	addr netip.AddrPort
}

// openWith serves on listeners, which it closes in the end, with the routes that are on
// disk.
func openWith(o edge.Options, l listeners, lim limits) (*Proxy, error) {
	p := &Proxy{o: o, limits: lim, listeners: l, routes: map[string]*route{}, replicas: map[replicaKey]*replica{}, stats: map[serviceKey]*stats{}}
	p.table.Store(&table{})
	if o.HTTPS != "" {
		_, port, err := net.SplitHostPort(l[secureName].Addr().String())
		if err != nil {
			return nil, err
		}
		p.httpsPort = port
	}
	var err error
	if p.owners, err = load(o.Routes()); err != nil {
		return nil, err
	}
	if err := p.register(); err != nil {
		return nil, err
	}
	if err := caddy.Run(p.config()); err != nil {
		return nil, fmt.Errorf("serve HTTP: %w", err)
	}
	return p, nil
}

// begin makes what needs Caddy's context, before Caddy listens.
func (p *Proxy) begin(ctx caddy.Context) (err error) {
	p.ctx, p.log = ctx, ctx.Slogger()
	if p.transport, err = newTransport(ctx); err != nil {
		return err
	}
	if p.certs, err = newCerts(ctx, p.o, p.listeners, func(host string) deploy.TLSMode { return p.table.Load().tls(host) }); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	next, err := p.build(p.owners)
	if err != nil {
		return err
	}
	if err := p.certs.internal.make(p.certs.wanted(p.owners)[deploy.TLSInternal]); err != nil {
		p.log.ErrorContext(ctx, "a host is served without a certificate", "error", err)
	}
	p.put(p.owners, next)
	return nil
}

// Set replaces the routes of an owner; none lets go of all. When it returns they are on
// disk and in force. It fails with runner.ErrInvalid, or with runner.ErrConflict if
// another owner has a host and path of them.
func (p *Proxy) Set(owner string, routes []deploy.EdgeRoute) error {
	own := make([]deploy.EdgeRoute, 0, len(routes))
	for _, r := range routes {
		n, err := normal(r)
		if err == nil {
			err = certifiable(n, p.o.HTTPS != "", p.certs.has)
		}
		if err != nil {
			return err
		}
		own = append(own, n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	owners := maps.Clone(p.owners)
	if owners[owner] = own; len(own) == 0 {
		delete(owners, owner)
	}
	if err := disjoint(owners, owner); err != nil {
		return err
	}
	next, err := p.build(owners)
	if err != nil {
		return err
	}
	if err := p.certs.internal.make(p.certs.wanted(owners)[deploy.TLSInternal]); err != nil {
		return err
	}
	if err := save(p.o.Routes(), owners); err != nil {
		return err
	}
	p.put(owners, next)
	return nil
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

// build makes the table of all routes, of handlers and replicas that are there and
// those that are new.
func (p *Proxy) build(owners map[string][]deploy.EdgeRoute) (*table, error) {
	t := &table{hosts: map[string][]match{}}
	for owner, routes := range owners {
		for _, r := range routes {
			made, err := p.routeOf(owner, r)
			if err != nil {
				return nil, err
			}
			e := &entry{route: made, pool: p.poolOf(made, r.Upstreams), stats: p.statsOf(owner, r.Service)}
			for _, at := range places(r.Route) {
				t.hosts[at.host] = append(t.hosts[at.host], match{at.path, e})
			}
		}
	}
	for _, matches := range t.hosts {
		slices.SortFunc(matches, func(a, b match) int { return len(b.path) - len(a.path) })
	}
	return t, nil
}

func (p *Proxy) routeOf(owner string, r deploy.EdgeRoute) (*route, error) {
	key := keyOf(owner, r)
	if made := p.routes[key]; made != nil {
		return made, nil
	}
	made, err := p.newRoute(owner, r)
	if err != nil {
		return nil, fmt.Errorf("route of service %s: %w", r.Service, err)
	}
	p.routes[key] = made
	return made, nil
}

func (p *Proxy) poolOf(r *route, upstreams []deploy.Upstream) *pool {
	made := &pool{turn: &r.turn}
	for _, u := range upstreams {
		if u.Weight == 0 {
			continue
		}
		key := replicaKey{u.ID, u.Addr}
		if p.replicas[key] == nil {
			p.replicas[key] = newReplica(u.ID, u.Addr)
		}
		made.members = append(made.members, member{p.replicas[key], u.Weight})
	}
	return made
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

// hold returns those who answer on the route of an attempt at this moment, and holds
// them until the attempt releases them: a replica that is chosen of them counts as one
// that has a request before anybody is told that they do not answer any more.
func (p *Proxy) hold(a *attempt) *pool {
	for {
		t := p.table.Load()
		e, _ := t.find(a.host, a.path)
		if e == nil || e.owner != a.route.owner {
			return &pool{} // the route is gone
		}
		e.pool.holds.Add(1)
		if p.table.Load() == t {
			a.held = e.pool
			return e.pool
		}
		e.pool.holds.Add(-1)
	}
}

// settle returns when nobody chooses of a table any more that is not in force.
func (t *table) settle() {
	const again = 20 * time.Microsecond
	for _, matches := range t.hosts {
		for _, m := range matches {
			for m.entry.pool.holds.Load() > 0 {
				time.Sleep(again)
			}
		}
	}
}

// Routes returns all routes by their owners.
func (p *Proxy) Routes() map[string][]deploy.EdgeRoute {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.owners)
}

// Requests counts the requests that a container has now.
func (p *Proxy) Requests(containerID string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, r := range p.replicas {
		if key.id == containerID {
			n += r.requests()
		}
	}
	return n
}

const (
	// goodbye is how long connections between two requests are told to close by the
	// answer to the next, before those that have none are closed.
	goodbye = time.Second
	// lastRequest is how long requests of a proxy that has retired go on at most.
	lastRequest = time.Hour
)

// Retire takes no further request, and returns when none can come. Those that it has go
// on.
func (p *Proxy) Retire() error {
	if p.retired.Swap(true) {
		return nil
	}
	err := p.listeners.close()
	time.Sleep(goodbye)
	app, appErr := p.ctx.App("http")
	if appErr != nil {
		return errors.Join(err, appErr)
	}
	return errors.Join(err, app.(*caddyhttp.App).Stop())
}

// Drain returns when there is no request any more, or after a while.
func (p *Proxy) Drain(patience time.Duration) {
	for begin := time.Now(); p.requests.Load() > 0 && time.Since(begin) < patience; {
		time.Sleep(goodbye / 20)
	}
}

// Close ends all that goes on.
func (p *Proxy) Close() error {
	err := errors.Join(p.Retire(), caddy.Stop())
	p.certs.close()
	return err
}
