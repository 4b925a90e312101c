package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// Options are what the handler can be told.
type Options struct {
	// Log receives failures that are not the client's.
	Log *slog.Logger
	// Observe, if not nil, is told of each request that was answered: by its row of
	// the table of routes, or as other.
	Observe func(method, route string, status int, took time.Duration)
	// Following, if not nil, tells how the stacks are doing that follow tags.
	Following func() []deploy.Following
}

// New makes the handler of the paths below Prefix. It wants a server that speaks
// HTTP/1.1, in which a client that goes away ends the context of its request.
func New(stacks Stacks, o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(string, string, int, time.Duration) {}
	}
	s := &server{stacks: stacks, o: o, large: make(chan struct{}, largeBodies), mux: http.NewServeMux()}
	for _, r := range routes() {
		s.mux.Handle(r.method+" "+r.path, r)
	}
	return s
}

type server struct {
	stacks Stacks
	o      Options
	mux    *http.ServeMux // finds routes; it serves nothing itself
	large  chan struct{}  // places of large bodies
}

// exchange is one request and its answer.
type exchange struct {
	*server

	r *http.Request
	w *response
}

// response knows how far the answer has come.
type response struct {
	http.ResponseWriter
	status int // 0: not begun
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

// ServeHTTP serves one request.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := &exchange{server: s, r: r, w: &response{ResponseWriter: w}}
	w.Header()[versionHeader] = []string{apiVersion}
	row := route{method: "other", path: "other"}
	found, _ := s.mux.Handler(r)
	if f, ok := found.(route); ok {
		row = f
	}
	defer func() { s.o.Observe(row.method, row.path, x.w.status, time.Since(start)) }()
	if err := x.serve(row); err != nil {
		x.fail(err)
	}
}

// serve follows a route. A panic becomes an error.
func (x *exchange) serve(row route) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			err = &panicError{p, debug.Stack()}
		}
	}()
	if row.handle == nil {
		return runner.Errorf(runner.ErrNotFound, "page not found")
	}
	return row.handle(x)
}

// name is the stack in the path. Of what is a name nothing needs to be escaped.
func (x *exchange) name() (string, error) {
	rest := strings.TrimPrefix(x.r.URL.EscapedPath(), Prefix+"stacks/")
	name, _, _ := strings.Cut(rest, "/")
	if !stackName.MatchString(name) {
		return "", runner.Errorf(runner.ErrInvalid, "invalid name of a stack: %q: want lower case letters, digits, - and _", name)
	}
	return name, nil
}

// json answers with v.
func (x *exchange) json(code int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	x.w.Header()["Content-Type"] = []string{mediaJSON}
	x.w.WriteHeader(code)
	_, _ = x.w.Write(append(data, '\n')) // a client that is gone reads nothing
	return nil
}
