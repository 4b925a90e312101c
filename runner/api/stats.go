package api

import (
	"context"
	"encoding/json"
	"iter"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// Statistics is what containers use of the host.
type Statistics interface {
	// ContainerStats yields one sample, or one a second until the container is
	// removed or ctx is done. A sample of a container that does not run is empty.
	ContainerStats(ctx context.Context, ref string, opts runner.StatsOptions) (iter.Seq[*container.StatsResponse], error)
}

func (x *exchange) containerStats() error {
	opts := runner.StatsOptions{Stream: x.isSetOrAbsent("stream"), OneShot: x.v.oneShot() && x.isSet("one-shot")}
	if opts.Stream && opts.OneShot {
		return runner.Errorf(runner.ErrInvalid, "cannot have stream=true and one-shot=true")
	}
	samples, err := x.engine.ContainerStats(x.r.Context(), x.container(), opts)
	if err != nil {
		return err
	}
	x.w.Header()["Content-Type"] = []string{"application/json"}
	if opts.Stream {
		x.w.Flush() // a client learns that it is served before there is a sample
	}
	enc := json.NewEncoder(x.w)
	enc.SetEscapeHTML(false)
	for s := range samples {
		x.v.stats(s)
		if err := enc.Encode(s); err != nil {
			return nil // the client is gone
		}
		if opts.Stream {
			x.w.Flush()
		}
	}
	return nil
}
