package deploy

import (
	"context"
	"net/netip"
)

// Edge is the HTTP edge of this host. What it is told is in force when it returns.
type Edge interface {
	// SetRoutes replaces what an owner has, at once; an empty list lets go of all. It
	// fails with runner.ErrConflict if another owner has the same host and path.
	SetRoutes(ctx context.Context, owner string, routes []EdgeRoute) error
	// CheckRoutes says whether SetRoutes would take the routes, whoever answers.
	CheckRoutes(ctx context.Context, owner string, routes []EdgeRoute) error
	// Requests counts the requests that a container has now by way of the edge. Once
	// SetRoutes has returned without it, no more are added.
	Requests(ctx context.Context, containerID string) (int, error)
}

// EdgeRoute is a route with those who answer.
type EdgeRoute struct {
	Service string
	Route
	Upstreams []Upstream
}

// Upstream is a replica behind a route.
type Upstream struct {
	ID     string // of the container
	Addr   netip.AddrPort
	Weight int // its part of the requests, in proportion to the others'
}
