package api

import (
	"net/http"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/plugin"

	"github.com/berth-registry/berth/runner"
)

// ping answers without asking the engine anything. The builder is BuildKit, of
// which clients know by its version.
func (x *exchange) ping() error {
	h := x.w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", "inactive")
	h.Set("Builder-Version", string(build.BuilderBuildKit))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if x.r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return x.done(http.StatusOK)
	}
	_, err := x.w.Write([]byte("OK"))
	return err
}

func (x *exchange) version() error {
	v, err := x.engine.Version(x.r.Context())
	if err != nil {
		return err
	}
	apiVersions(&v)
	return x.json(http.StatusOK, v)
}

func (x *exchange) info() error {
	i, err := x.engine.Info(x.r.Context())
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, x.v.info(&i))
}

func (x *exchange) auth() error {
	c, err := authconfig.DecodeRequestBody(http.MaxBytesReader(x.w, x.r.Body, smallBody))
	if err != nil {
		return runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	answer, err := x.engine.Login(x.r.Context(), *c)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, answer)
}

func (x *exchange) listPlugins() error {
	if _, err := x.filters(); err != nil {
		return err
	}
	return x.json(http.StatusOK, []plugin.Plugin{})
}

func (x *exchange) inspectPlugin() error {
	return runner.Errorf(runner.ErrNotFound, "plugin %q not found", x.name)
}
