package api

import (
	"net/http"

	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

func (x *exchange) listVolumes() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	list, err := x.engine.ListVolumes(x.r.Context(), filters)
	if err != nil {
		return err
	}
	list.Volumes = notNil(list.Volumes)
	return x.json(http.StatusOK, list)
}

func (x *exchange) createVolume() error {
	var req volume.CreateRequest
	if _, err := x.body(&req); err != nil {
		return err
	}
	if req.ClusterVolumeSpec != nil {
		return runner.Errorf(runner.ErrNotImplemented, "cluster volumes are not supported by Berth")
	}
	v, err := x.engine.CreateVolume(x.r.Context(), req)
	if err != nil {
		return err
	}
	return x.json(http.StatusCreated, v)
}

func (x *exchange) inspectVolume() error {
	v, err := x.engine.InspectVolume(x.r.Context(), x.name)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, v)
}

// updateVolume changes the state of a cluster's volume: there are none.
func (x *exchange) updateVolume() error {
	return runner.Errorf(runner.ErrUnavailable, "volume update only valid for cluster volumes, but swarm is unavailable")
}

func (x *exchange) removeVolume() error {
	if err := x.engine.RemoveVolume(x.r.Context(), x.name, x.isSet("force")); err != nil {
		return err
	}
	return x.done(http.StatusNoContent)
}

func (x *exchange) pruneVolumes() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	if x.v.pruneNamedVolumes() {
		if filters == nil {
			filters = runner.Filters{}
		}
		filters["all"] = []string{"true"}
	}
	report, err := x.engine.PruneVolumes(x.r.Context(), filters)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, report)
}
