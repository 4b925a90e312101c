package gate

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/registry"
)

// from is where a request comes from.
type from struct {
	client  string // address
	request string // id
	start   time.Time
}

// Handler puts the session of each request into its context, before a registry's
// server. It answers 401 to wrong credentials, and to a request for /v2/ without
// any: that is where clients ask how to sign in (distribution token
// specification, "Requesting a Token"). So it does for the list of repositories,
// where tokens are asked for: a client that waits to be asked would see of it what
// anybody sees.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ask error
		switch path := r.URL.Path; {
		case g.o.Open:
		case path == "/v2/", path == "/v2":
			ask = errNone
		case path == "/v2/_catalog" && !g.live.Load().Basic:
			ask = errNoneListed
		}
		g.serve(w, r, next, ask)
	})
}

// Identify is Handler for other handlers than a registry's server: no path is
// special to it.
func (g *Gate) Identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, next, nil) })
}

// serve serves a request, which fails with ask, if that is an error, unless it says
// who it is.
func (g *Gate) serve(w http.ResponseWriter, r *http.Request, next http.Handler, ask error) {
	f := g.arrived(w, r)
	id, err := g.whose(r, f)
	if err == nil && ask != nil && id == auth.Anonymous {
		err = ask
	}
	if limit := g.meters.of(id, f.client); limit != nil {
		if after := limit.request(); after > 0 {
			g.refuse(w, r, f, "refused", &ThrottledError{After: after})
			return
		}
		if err == nil {
			w, r = limit.shape(w, r)
		}
	}
	if err != nil {
		g.refuse(w, r, f, "refused", err)
		return
	}
	next.ServeHTTP(w, g.enter(r, id, f))
}

// arrived sees to it that the request has an id that all who tell of it use.
func (g *Gate) arrived(w http.ResponseWriter, r *http.Request) from {
	id := []string{registry.RequestID(r)}
	r.Header["X-Request-Id"] = id
	w.Header()["X-Request-Id"] = id
	return from{client: hostOf(r.RemoteAddr), request: id[0], start: g.o.Now()}
}

// enter returns the request with its caller in its context.
func (g *Gate) enter(r *http.Request, id *auth.Identity, f from) *http.Request {
	c := &struct {
		session auth.Session
		actor   audit.Actor
	}{auth.Session{Identity: id}, f.actor(id)} // one allocation: every request has both
	if !g.o.Open {
		c.session.Challenge = func(scope string, insufficient bool) string {
			if insufficient {
				return g.challenge(r, scope, insufficientScope)
			}
			return g.challenge(r, scope, "")
		}
	}
	return r.WithContext(audit.NewContext(auth.NewContext(r.Context(), &c.session), &c.actor))
}

// actor is who acts, if it is id.
func (f from) actor(id *auth.Identity) audit.Actor {
	return audit.Actor{Account: id.Account, Source: id.Source, Key: id.Key, Client: f.client, Request: f.request}
}

// whose finds out whose a request is: auth.Anonymous if it says nothing of that.
// What the Authorization header says comes before the certificate, which a client
// may send to any server that asks for one.
func (g *Gate) whose(r *http.Request, f from) (*auth.Identity, error) {
	if g.o.Open {
		return auth.Anonymous, nil
	}
	header := r.Header["Authorization"]
	if len(header) > 0 && g.stale() {
		return nil, errStale
	}
	if raw, p, ok := g.remembered(header, f.start); ok {
		return g.holds(r.Context(), raw, p, f.start)
	}
	c, err := parseAuthorization(header)
	if err != nil {
		return nil, err
	}
	switch c.scheme {
	case bearerScheme:
		return g.verify(r.Context(), f, c.token)
	case basicScheme:
		return g.login(r.Context(), f, c.account, c.password)
	case noScheme:
	}
	id, err := g.certified(r)
	if id == nil && err == nil {
		id = auth.Anonymous
	}
	return id, err
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// network is what counts as one client: an address of IPv4, or the 64 bits of an
// address of IPv6 that its network gave to it.
func network(client string) string {
	addr, err := netip.ParseAddr(client)
	if err != nil {
		return client
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return client
	}
	return prefix.Addr().String()
}

func (g *Gate) record(ctx context.Context, f from, id *auth.Identity, e audit.Event) {
	e.Time, e.Actor = g.o.Now(), f.actor(id)
	g.o.Audit.Record(ctx, e)
}
