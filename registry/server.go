package registry

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
)

// Server serves a Registry over HTTP. It knows only the interfaces: who may do
// what, and where content is, is behind them.
type Server struct {
	registry Registry
	o        ServerOptions
	large    large
}

// ServerOptions are what a Server can be told.
type ServerOptions struct {
	// BodyTimeout is how long a client may take for 16 KiB of a request's body, or
	// for 1 MiB of a blob, before its connection is given up. That a client takes
	// no answer at all the listener should find out (TCP_USER_TIMEOUT).
	BodyTimeout time.Duration
	// Observe, if set, is called after each request, with its context.
	Observe func(context.Context, Record)
	// Log receives failures that are not the client's.
	Log *slog.Logger
}

// Record is what there is to say of a request after it.
type Record struct {
	ID       string // of the request: the client's X-Request-Id, or a new one
	Client   string // address
	Method   string
	Path     string
	Route    string // of the table of routes
	Action   string // what it did to the repository: pull, push, delete, list; or empty
	Repo     string // or empty
	Status   int
	In       int64 // bytes of the request's body that were read
	Out      int64 // bytes of the answer's body
	Duration time.Duration
	Err      error // that the client was told of, or nil
}

// NewServer makes a server of r.
func NewServer(r Registry, o ServerOptions) *Server {
	if o.BodyTimeout == 0 {
		o.BodyTimeout = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{registry: r, o: o}
}

// The actions of the table of routes.
const (
	actionPull   = "pull"
	actionPush   = "push"
	actionDelete = "delete"
	actionList   = "list"
)

// route is a row of the table of routes.
type route struct {
	name   string // in metrics and the log
	action string // that the caller must be allowed
	handle func(*exchange) error
}

// routes is the table of routes: what serves each kind of request.
var routes = [kinds]route{
	KindUnknown:        {"unknown", "", func(*exchange) error { return ErrRouteUnknown }},
	KindBase:           {"base", "", (*exchange).base},
	KindBlob:           {"blob", actionPull, (*exchange).blob},
	KindDeleteBlob:     {"blob-delete", actionDelete, (*exchange).deleteBlob},
	KindStartUpload:    {"upload-start", actionPush, (*exchange).startUpload},
	KindPushBlob:       {"blob-push", actionPush, (*exchange).pushBlob},
	KindMountBlob:      {"blob-mount", actionPush, (*exchange).mountBlob},
	KindUploadStatus:   {"upload-status", actionPush, (*exchange).uploadStatus},
	KindWriteUpload:    {"upload-write", actionPush, (*exchange).writeUpload},
	KindCommitUpload:   {"upload-commit", actionPush, (*exchange).commitUpload},
	KindCancelUpload:   {"upload-cancel", actionPush, (*exchange).cancelUpload},
	KindManifest:       {"manifest", actionPull, (*exchange).manifest},
	KindPushManifest:   {"manifest-push", actionPush, (*exchange).pushManifest},
	KindDeleteManifest: {"manifest-delete", actionDelete, (*exchange).deleteManifest},
	KindDeleteTag:      {"tag-delete", actionDelete, (*exchange).deleteTag},
	KindTags:           {"tags", actionPull, (*exchange).tags},
	KindRepositories:   {"catalog", actionList, (*exchange).repositories},
	KindReferrers:      {"referrers", actionPull, (*exchange).referrers},
	KindSearch:         {"search", actionList, (*exchange).search},
	KindSearchBase:     {"search-base", "", (*exchange).searchBase},
}

// exchange is one request and its answer.
type exchange struct {
	*Server
	Request

	r    *http.Request
	w    response
	body body
}

func (x *exchange) ctx() context.Context { return x.r.Context() }

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := &exchange{
		Server: s, r: r,
		w:    response{ResponseWriter: w},
		body: body{r: r.Body, control: http.NewResponseController(w), timeout: s.o.BodyTimeout, length: r.ContentLength},
	}
	id := RequestID(r)
	w.Header()["X-Request-Id"] = []string{id}
	err := x.serve()
	if err != nil {
		err = x.fail(err, id)
	}
	if s.o.Observe == nil {
		return
	}
	route := &routes[x.Kind]
	s.o.Observe(x.ctx(), Record{
		ID: id, Client: clientAddr(r), Method: r.Method, Path: r.URL.Path, Route: route.name, Action: route.action,
		Repo: x.Repo, Status: x.w.status, In: x.body.n, Out: x.w.n, Duration: time.Since(start), Err: err,
	})
}

// serve parses and handles the request. A panic becomes an error.
func (x *exchange) serve() (err error) {
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			err = &panicError{p, debug.Stack()}
		}
	}()
	req, err := Parse(x.r.Method, x.r.URL.EscapedPath(), x.r.URL.RawQuery)
	if err != nil {
		return err
	}
	x.Request = req
	if err, ok := x.ctx().Value(refusalKey{}).(error); ok {
		return err
	}
	return routes[req.Kind].handle(x)
}

type refusalKey struct{}

// Refusing returns a context in which a Server refuses a request with err, as who
// has seen it before has found.
func Refusing(ctx context.Context, err error) context.Context {
	return context.WithValue(ctx, refusalKey{}, err)
}

type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return "panic while serving a request" }

// RequestID is the client's own id for the request, in X-Request-Id, if that is a
// plain one, or a new one.
func RequestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 {
		plain := true
		for i := range len(id) {
			c := id[i]
			plain = plain && (isLowerAlnum(c) || 'A' <= c && c <= 'Z' || c == '-' || c == '_' || c == '.')
		}
		if plain {
			return id
		}
	}
	return strconv.FormatUint(rand.Uint64(), 36) //nolint:gosec // it tells requests apart and keeps no secret
}

func clientAddr(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// clientGone says that err came of the client's closing the connection.
func (x *exchange) clientGone(err error) bool {
	return errors.Is(err, context.Canceled) && x.ctx().Err() != nil
}
