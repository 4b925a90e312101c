package api

import (
	"net/http"

	"github.com/berth-registry/berth/runner"
)

// pruneBuilds removes what of the build cache is not needed.
func (x *exchange) pruneBuilds() error {
	opts := runner.BuildPruneOptions{All: x.isSet("all")}
	var err error
	if opts.Filters, err = x.filters(); err != nil {
		return err
	}
	if err := opts.Filters.Allow("until", "unused-for", "label", "label!", "id", "parent", "type", "description", "inuse", "shared", "private"); err != nil {
		return err
	}
	read := func(key string, to *int64) {
		if err == nil && *to == 0 {
			*to, err = x.bytes(key)
		}
	}
	if x.v.buildSpaces() {
		read("reserved-space", &opts.KeepStorage)
		read("max-used-space", &opts.MaxUsedSpace)
		read("min-free-space", &opts.MinFreeSpace)
	}
	read("keep-storage", &opts.KeepStorage)
	if err != nil {
		return err
	}
	report, err := x.engine.PruneBuildCache(x.r.Context(), opts)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, report)
}
