package api

import (
	"context"
	"encoding/json"
	"net"
	"net/http"

	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/berth-registry/berth/runner"
)

// Builder makes images of Dockerfiles, by BuildKit.
type Builder interface {
	// BuildControl serves BuildKit's gRPC services on a connection until it ends.
	BuildControl(ctx context.Context, conn net.Conn) error
	// BuildSession lets builds use what a client has, until the connection ends.
	// meta are the headers of the request.
	BuildSession(ctx context.Context, conn net.Conn, proto string, meta map[string][]string) error
	// Build makes an image. progress hears what goes on, one call after the
	// other and never after Build has returned; the context has been read to its
	// end before the first.
	Build(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error)
	CancelBuild(ctx context.Context, id string) error
	PruneBuildCache(ctx context.Context, opts runner.BuildPruneOptions) (build.CachePruneReport, error)
	BuildCache(ctx context.Context) ([]build.CacheRecord, error)
}

// build makes an image for a client that does not speak BuildKit's protocol, or
// only for its session.
func (x *exchange) build() error {
	req, err := x.buildRequest()
	if err != nil {
		return err
	}
	switch v := x.q.Get("version"); build.BuilderVersion(v) {
	case "", build.BuilderV1:
		return x.buildClassic(req)
	case build.BuilderBuildKit:
		return x.buildTraced(req)
	default:
		return runner.Errorf(runner.ErrInvalid, "invalid version %q", v)
	}
}

// buildTraced makes an image for a client that draws the progress itself.
func (x *exchange) buildTraced(req runner.BuildRequest) error {
	if id, ok := uploadFor(req.ID); ok {
		return x.uploads.offer(x.r.Context(), id, x.r.Body)
	}
	return x.withProgress(func(p runner.Progress) error {
		switch req.Remote {
		case remoteSession:
			req.Remote = ""
		case remoteUpload:
			body, done, err := x.uploads.await(x.r.Context(), req.ID)
			if err != nil {
				return err
			}
			defer done()
			req.Remote, req.Context = "", body
		case "":
			req.Context = x.r.Body
		}
		if req.Context != nil {
			plain, err := unpacked(req.Context)
			if err != nil {
				return err
			}
			defer plain.Close()
			req.Context = plain
		}
		result, err := x.engine.Build(x.r.Context(), req, func(s *client.SolveStatus) { trace(p, s) })
		if err != nil {
			return err
		}
		if result.ImageID != "" {
			aux(p, "moby.image.id", build.Result{ID: result.ImageID})
		}
		return nil
	})
}

// trace passes on what BuildKit says, as BuildKit's own clients read it.
func trace(p runner.Progress, s *client.SolveStatus) {
	for _, part := range s.Marshal() {
		if raw, err := part.MarshalVT(); err == nil {
			aux(p, "moby.buildkit.trace", raw)
		}
	}
}

// aux sends what is meant for the program at the other end.
func aux(p runner.Progress, id string, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		return
	}
	p(jsonstream.Message{ID: id, Aux: (*json.RawMessage)(&raw)})
}

func (x *exchange) cancelBuild() error {
	id := x.q.Get("id")
	if id == "" {
		return runner.Errorf(runner.ErrInvalid, "build ID not provided")
	}
	if err := x.engine.CancelBuild(x.r.Context(), id); err != nil {
		return err
	}
	return x.done(http.StatusOK)
}
