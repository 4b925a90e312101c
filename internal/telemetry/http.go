package telemetry

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/berth-registry/berth/internal/daemon"
)

// Handler serves GET /metrics, health, and the profiles of net/http/pprof.
func (m *Metrics) Handler(ready func(context.Context) error) http.Handler {
	return daemon.Operations(promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry}), ready)
}
