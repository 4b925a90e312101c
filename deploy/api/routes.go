package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/runner"
)

// route is a row of the table of routes.
type route struct {
	method string
	path   string
	handle func(*exchange) error
}

// ServeHTTP makes a row fit into the table of net/http, which only finds it.
func (r route) ServeHTTP(w http.ResponseWriter, req *http.Request) { http.NotFound(w, req) }

const (
	get    = http.MethodGet
	post   = http.MethodPost
	remove = http.MethodDelete
)

// routes is the table of all that is served.
func routes() []route {
	return []route{
		{get, Prefix + "stacks", (*exchange).listStacks},
		{get, Prefix + "stacks/{name}", (*exchange).stackStatus},
		{remove, Prefix + "stacks/{name}", (*exchange).removeStack},
		{get, Prefix + "stacks/{name}/history", (*exchange).stackHistory},
		{get, Prefix + "stacks/{name}/revisions/{number}", (*exchange).stackRevision},
		{post, Prefix + "stacks/{name}/deploy", (*exchange).deployStack},
		{post, Prefix + "stacks/{name}/rollback", (*exchange).rollbackStack},
		{post, Prefix + "stacks/{name}/scale", (*exchange).scaleStack},
		{post, Prefix + "stacks/{name}/cancel", (*exchange).cancelStack},
		{get, Prefix + "follow", (*exchange).listFollowing},
	}
}

func (x *exchange) listStacks() error {
	stacks, err := x.stacks.Stacks(x.r.Context())
	if err != nil {
		return err
	}
	if stacks == nil {
		stacks = []deploy.Status{}
	}
	return x.json(http.StatusOK, stacks)
}

func (x *exchange) stackStatus() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	s, err := x.stacks.Status(x.r.Context(), name)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, s)
}

func (x *exchange) stackHistory() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	revisions, err := x.stacks.History(x.r.Context(), name)
	if err != nil {
		return err
	}
	if revisions == nil {
		revisions = []deploy.Revision{}
	}
	return x.json(http.StatusOK, revisions)
}

// stackRevision answers with what a revision is made of; 0 is the one in service.
func (x *exchange) stackRevision() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	_, last := splitLast(x.r.URL.Path)
	n, err := number("revision", last)
	if err != nil {
		return err
	}
	s, err := x.stacks.Stack(x.r.Context(), name, n)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, s)
}

// deployStack deploys the stack of the body, or answers with the plan for it.
func (x *exchange) deployStack() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	var req deploy.Request
	if err := x.body(&req); err != nil {
		return err
	}
	if req.Stack.Name != name {
		return runner.Errorf(runner.ErrInvalid, "the stack is %q, and the path says %q", req.Stack.Name, name)
	}
	if err := checkBy(req.By); err != nil {
		return err
	}
	dry, err := x.isSet("dry-run")
	if err != nil {
		return err
	}
	if dry {
		p, err := x.stacks.Plan(x.r.Context(), req)
		if err != nil {
			return err
		}
		return x.json(http.StatusOK, p)
	}
	return x.stream(func(ctx context.Context, tell func(deploy.Event)) (any, error) {
		return x.stacks.Deploy(ctx, req, tell)
	})
}

func (x *exchange) rollbackStack() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	q := x.r.URL.Query()
	to := 0
	if q.Has("to") {
		if to, err = number("to", q.Get("to")); err != nil {
			return err
		}
	}
	by := q.Get("by")
	if err := checkBy(by); err != nil {
		return err
	}
	return x.stream(func(ctx context.Context, tell func(deploy.Event)) (any, error) {
		return x.stacks.Rollback(ctx, name, to, by, tell)
	})
}

func (x *exchange) scaleStack() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	var req scaling
	if err := x.body(&req); err != nil {
		return err
	}
	if err := checkBy(req.By); err != nil {
		return err
	}
	if len(req.Replicas) == 0 {
		return runner.Errorf(runner.ErrInvalid, "there is no service to scale")
	}
	return x.stream(func(ctx context.Context, tell func(deploy.Event)) (any, error) {
		return x.stacks.Scale(ctx, name, req.Replicas, req.By, tell)
	})
}

func (x *exchange) cancelStack() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	if err := x.stacks.Cancel(x.r.Context(), name); err != nil {
		return err
	}
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (x *exchange) removeStack() error {
	name, err := x.name()
	if err != nil {
		return err
	}
	volumes, err := x.isSet("volumes")
	if err != nil {
		return err
	}
	return x.stream(func(ctx context.Context, tell func(deploy.Event)) (any, error) {
		return struct{}{}, x.stacks.Remove(ctx, name, volumes, tell)
	})
}

// number reads the number of a revision; 0 is none in particular.
func number(what, s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, runner.Errorf(runner.ErrInvalid, "invalid value for %s: %q is not the number of a revision", what, s)
	}
	return n, nil
}

func checkBy(by string) error {
	if len(by) > maxBy {
		return runner.Errorf(runner.ErrInvalid, "the name of who asks is longer than %d bytes", maxBy)
	}
	return nil
}
