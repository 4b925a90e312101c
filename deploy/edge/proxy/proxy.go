package proxy

import (
	"context"
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
	if p.owners, err = edge.LoadRoutes(o); err != nil {
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
	p.mu.Lock() // what is being set is set before
	before := p.retired.Swap(true)
	p.mu.Unlock()
	if before {
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

// Drain returns when there is no request any more, after a while, or when the context
// ends.
func (p *Proxy) Drain(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for look := time.Tick(goodbye / 20); p.requests.Load() > 0; {
		select {
		case <-look:
		case <-ctx.Done():
			return
		}
	}
}

// Close ends all that goes on.
func (p *Proxy) Close() error {
	err := errors.Join(p.Retire(), caddy.Stop())
	p.certs.close()
	return err
}
