package main

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/berth-registry/berth/deploy"
	stacks "github.com/berth-registry/berth/deploy/api"
	"github.com/berth-registry/berth/internal/daemon"
	"github.com/berth-registry/berth/internal/runnerconfig"
	"github.com/berth-registry/berth/runner/engine"
)

// openStacks opens the stacks of this host. Closing what it returns leaves those that
// are being deployed to the next start.
func openStacks(ctx context.Context, cfg runnerconfig.Config, e *engine.Engine, front deploy.Edge, log *slog.Logger) (*deploy.Manager, error) {
	m, err := deploy.Open(ctx, deploy.Options{Dir: filepath.Join(cfg.Data, "stacks"), Engine: e, Edge: front, History: cfg.Stacks.History, Log: log})
	if err != nil {
		return nil, locked(err, "data", "--data")
	}
	return m, nil
}

// withStacks serves stacks beside what docker is served.
func withStacks(docker http.Handler, m *deploy.Manager, f followers, log *slog.Logger, o *metrics) http.Handler {
	h := daemon.Bodies(stacks.New(m, stacks.Options{Log: log, Observe: o.observe, Following: f.status}), patience)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, stacks.Prefix) {
			h.ServeHTTP(w, r)
			return
		}
		docker.ServeHTTP(w, r)
	})
}
