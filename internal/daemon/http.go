package daemon

import (
	"context"
	"io"
	"net/http"
	"net/http/pprof"
)

// Health answers GET /healthz, 200 while the process lives, and GET /readyz, 200
// when ready says that requests can be served and else 503 with its error.
func Health(mux *http.ServeMux, ready func(context.Context) error) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
}

// Operations serves what operators ask for: GET /metrics by metrics, health, and
// the profiles of net/http/pprof.
func Operations(metrics http.Handler, ready func(context.Context) error) http.Handler {
	mux := http.NewServeMux()
	Health(mux, ready)
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
