package api

import (
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

func (x *exchange) listImages() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	if name := x.q.Get("filter"); name != "" && x.v.imageFilterParam() && len(filters["reference"]) == 0 {
		if filters == nil {
			filters = runner.Filters{}
		}
		filters["reference"] = []string{name}
	}
	manifests := x.v.listManifests() && x.isSet("manifests")
	if !manifests && x.v.listIdentity() && x.isSet("identity") {
		return runner.Errorf(runner.ErrInvalid, "conflicting options: identity requires manifests=1")
	}
	list, err := x.engine.ListImages(x.r.Context(), runner.ImageListOptions{
		All: x.isSet("all"), Manifests: manifests, Filters: filters,
	})
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, x.v.imageList(list))
}

func (x *exchange) inspectImage() (err error) {
	var platform string
	if x.v.inspectPlatform() {
		if platform, err = x.platform("platform"); err != nil {
			return err
		}
	}
	manifests := x.v.inspectManifests() && x.isSet("manifests")
	if manifests && platform != "" {
		return runner.Errorf(runner.ErrInvalid, "conflicting options: manifests and platform options cannot both be set")
	}
	i, err := x.engine.InspectImage(x.r.Context(), x.name, platform, manifests)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, x.v.image(&i))
}

func (x *exchange) imageHistory() (err error) {
	var platform string
	if x.v.historyPlatform() {
		if platform, err = x.platform("platform"); err != nil {
			return err
		}
	}
	history, err := x.engine.ImageHistory(x.r.Context(), x.name, platform)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, notNil(history))
}

func (x *exchange) tagImage() error {
	repo, tag, err := x.repoTag()
	if err != nil {
		return err
	}
	switch {
	case repo == "":
		return runner.Errorf(runner.ErrInvalid, "repository name must have at least one component")
	case strings.TrimPrefix(strings.TrimPrefix(repo, "docker.io/"), "library/") == string(digest.Canonical):
		return runner.Errorf(runner.ErrInvalid, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	if err := x.engine.TagImage(x.r.Context(), x.name, repo, tag); err != nil {
		return err
	}
	return x.done(http.StatusCreated)
}

func (x *exchange) removeImage() error {
	if x.v.removePlatforms() && x.q.Get("platforms") != "" {
		return runner.Errorf(runner.ErrNotImplemented, "removing single platforms of an image is not supported by Berth")
	}
	removed, err := x.engine.RemoveImage(x.r.Context(), x.name, runner.ImageRemoveOptions{
		Force: x.isSet("force"), NoPrune: x.isSet("noprune"),
	})
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, notNil[image.DeleteResponse](removed))
}

func (x *exchange) pruneImages() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	report, err := x.engine.PruneImages(x.r.Context(), filters)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, report)
}

func (x *exchange) searchImages() error {
	filters, err := x.filters()
	if err != nil {
		return err
	}
	limit, err := x.number("limit")
	if err != nil || limit < 0 {
		return runner.Errorf(runner.ErrInvalid, "invalid limit specified")
	}
	found, err := x.engine.SearchImages(x.r.Context(), runner.SearchRequest{
		Term: x.q.Get("term"), Limit: limit, Filters: filters, Auth: x.credentials(),
	})
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, notNil(found))
}

func (x *exchange) inspectDistribution() error {
	if _, err := reference.ParseAnyReference(x.name); err != nil {
		return runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	found, err := x.engine.InspectDistribution(x.r.Context(), x.name, x.credentials())
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, found)
}
