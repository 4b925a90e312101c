package api

import (
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/image"

	"github.com/berth-registry/berth/runner"
)

// imageAttestations lists what is attested of an image. The store keeps of an index
// the image for one platform and nothing beside it, so an image that is there has
// no attestations, of whatever type.
func (x *exchange) imageAttestations() error {
	platforms, err := x.platforms("platform")
	if err != nil {
		return err
	}
	if len(platforms) > 1 {
		return runner.Errorf(runner.ErrInvalid, "multiple platform parameters are not supported")
	}
	if slices.Contains(x.q["type"], "") {
		return runner.Errorf(runner.ErrInvalid, "invalid value for type: a predicate type cannot be empty")
	}
	platform := ""
	if len(platforms) == 1 {
		platform = platforms[0]
	}
	if _, err := x.engine.InspectImage(x.r.Context(), x.name, platform, false); err != nil {
		return err
	}
	return x.json(http.StatusOK, []image.AttestationStatement{})
}
