package api

import (
	"net/http"

	"github.com/berth-registry/berth/runner"
)

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
