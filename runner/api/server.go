package api

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/berth-registry/berth/runner"
)

// Options are what the API can be told.
type Options struct {
	// Log receives failures that are not the client's, and at debug level a line
	// for each request.
	Log *slog.Logger
	// Version is the engine's own, for the Server header.
	Version string
	// Observe, if not nil, is told of each request that was answered: by its row of
	// the table of routes, or as other.
	Observe func(method, route string, status int, took time.Duration)
}

// New makes the handler of the API of e. It hijacks connections, so it wants a
// server that speaks HTTP/1.1 only: see Configure. Bodies are bounded here.
func New(e Engine, o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(string, string, int, time.Duration) {}
	}
	return &server{engine: e, o: o, router: newRouter(), large: make(chan struct{}, largeBodies)}
}

// Configure sets what a server of the handler needs: HTTP/1.1 only, since streams
// take over their connections, and bounds on headers.
func Configure(s *http.Server) {
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.ReadHeaderTimeout = 30 * time.Second
	s.IdleTimeout = 5 * time.Minute
	s.MaxHeaderBytes = 1 << 20 // the names of many images fit into a URL
}

type server struct {
	engine Engine
	o      Options
	router *router
	large  chan struct{} // places of large bodies
	// uploads are contexts of builds that are under way.
	uploads uploads
}

// exchange is one request and its answer.
type exchange struct {
	*server

	r     *http.Request
	w     *response
	route *route     // nil: there is none
	v     version    // that the client speaks
	name  string     // in the path, or empty
	q     url.Values // the query
}

// observed tells of a request that was answered.
func (x *exchange) observed(took time.Duration) {
	method, path, status := "other", "other", x.w.status
	if x.route != nil {
		method, path = x.route.method, x.route.path
	}
	if x.w.hijacked {
		status = http.StatusSwitchingProtocols
	}
	x.o.Observe(method, path, status, took)
}

// ServeHTTP serves one request.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := &exchange{server: s, r: r, w: &response{ResponseWriter: w}}
	h := w.Header()
	h["Api-Version"] = []string{maxVersion.String()}
	h["Docker-Experimental"] = []string{"false"}
	h["Ostype"] = []string{"linux"}
	h["Server"] = []string{"Berth/" + s.o.Version + " (linux)"}
	defer func() {
		x.observed(time.Since(start))
		s.o.Log.LogAttrs(r.Context(), slog.LevelDebug, "request",
			slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.Int("status", x.w.status), slog.Duration("took", time.Since(start)))
	}()
	up := x.receive()
	if err := x.serve(); err != nil {
		x.fail(err)
	}
	x.drain(up)
}

// serve finds the route of the request and follows it. A panic becomes an error.
func (x *exchange) serve() (err error) {
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			err = &panicError{p, debug.Stack()}
		}
	}()
	spoken, path := splitVersion(x.r.URL.Path)
	route, names := x.router.find(x.r.Method, path)
	if route == nil {
		return errNoPage()
	}
	x.route = route
	if x.v, err = negotiate(spoken); err != nil {
		return err
	}
	if x.v < route.since {
		return errNoPage()
	}
	if len(names) > 0 {
		if x.name = names[0]; x.name == "" {
			return errNoName(firstComponent(path))
		}
	}
	if x.r.URL.RawQuery != "" {
		if x.q, err = url.ParseQuery(x.r.URL.RawQuery); err != nil {
			return runner.Errorf(runner.ErrInvalid, "%w", err)
		}
	}
	return route.handle(x)
}

func errNoPage() error { return runner.Errorf(runner.ErrNotFound, "page not found") }

func errNoName(of string) error {
	if of == "images" {
		return runner.Errorf(runner.ErrInvalid, "image name cannot be blank")
	}
	return runner.Errorf(runner.ErrInvalid, "bad parameter: name cannot be empty")
}
