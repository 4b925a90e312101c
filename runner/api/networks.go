package api

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// Networks are what containers are connected to. One is named by its name, its ID
// or the beginning of its ID.
type Networks interface {
	ListNetworks(ctx context.Context, filters runner.Filters) ([]network.Inspect, error)
	InspectNetwork(ctx context.Context, ref string) (network.Inspect, error)
	// CreateNetwork returns runner.ErrConflict if the name is taken.
	CreateNetwork(ctx context.Context, req network.CreateRequest) (network.CreateResponse, error)
	// RemoveNetwork returns runner.ErrForbidden if a container is connected.
	RemoveNetwork(ctx context.Context, ref string) error
	ConnectNetwork(ctx context.Context, ref string, req network.ConnectRequest) error
	DisconnectNetwork(ctx context.Context, ref string, req network.DisconnectRequest) error
	PruneNetworks(ctx context.Context, filters runner.Filters) (network.PruneReport, error)
}

func (x *exchange) listNetworks() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	list, err := x.engine.ListNetworks(x.r.Context(), filters)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, x.v.networkList(list))
}

func (x *exchange) inspectNetwork() error {
	n, err := x.engine.InspectNetwork(x.r.Context(), x.name)
	if err != nil {
		return err
	}
	if scope := x.q.Get("scope"); scope != "" && scope != n.Scope {
		return runner.Errorf(runner.ErrNotFound, "network %s not found", x.name)
	}
	x.v.network(&n)
	return x.json(http.StatusOK, n)
}

// networkBody reads the body of a request, which must be there.
func (x *exchange) networkBody(v any) error {
	found, err := x.body(v)
	if err == nil && !found {
		err = runner.Errorf(runner.ErrInvalid, "invalid JSON: got EOF while reading request body")
	}
	return err
}

func (x *exchange) createNetwork() error {
	var req network.CreateRequest
	if err := x.networkBody(&req); err != nil {
		return err
	}
	x.v.createNetwork(&req)
	created, err := x.engine.CreateNetwork(x.r.Context(), req)
	if err != nil {
		return err
	}
	return x.json(http.StatusCreated, created)
}

func (x *exchange) removeNetwork() error {
	if err := x.engine.RemoveNetwork(x.r.Context(), x.name); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) connectNetwork() error {
	var req network.ConnectRequest
	if err := x.networkBody(&req); err != nil {
		return err
	}
	x.v.connectNetwork(&req)
	if err := x.engine.ConnectNetwork(x.r.Context(), x.name, req); err != nil {
		return err
	}
	return x.done(http.StatusOK)
}

func (x *exchange) disconnectNetwork() error {
	var req network.DisconnectRequest
	if err := x.networkBody(&req); err != nil {
		return err
	}
	if err := x.engine.DisconnectNetwork(x.r.Context(), x.name, req); err != nil {
		return err
	}
	return x.done(http.StatusOK)
}

func (x *exchange) pruneNetworks() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	report, err := x.engine.PruneNetworks(x.r.Context(), filters)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, report)
}
