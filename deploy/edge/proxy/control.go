package proxy

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/edge"
	"github.com/berth-registry/berth/runner"
)

// maxRoutes bounds what an owner says of its routes, in bytes.
const maxRoutes = 16 << 20

// control answers those who tell the proxy what to do.
type control struct {
	proxy   *Proxy
	status  edge.Status
	ending  chan struct{}   // closed when it serves no longer
	retired chan<- struct{} // is told to end with the last request
	stop    func()          // ends it
}

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+edge.StatusPath, c.getStatus)
	mux.HandleFunc("GET "+edge.RoutesPath, func(w http.ResponseWriter, _ *http.Request) { reply(w, c.proxy.Routes(), nil) })
	mux.HandleFunc("PUT "+edge.RoutesPath, func(w http.ResponseWriter, r *http.Request) { c.withRoutes(w, r, c.proxy.Set) })
	mux.HandleFunc("POST "+edge.RoutesPath, func(w http.ResponseWriter, r *http.Request) { c.withRoutes(w, r, c.proxy.Check) })
	mux.HandleFunc("GET "+edge.RequestsPath, func(w http.ResponseWriter, r *http.Request) {
		reply(w, c.proxy.Requests(r.URL.Query().Get("container")), nil)
	})
	mux.HandleFunc("GET "+edge.AlivePath, c.alive)
	mux.HandleFunc("POST "+edge.RetirePath, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, nil, c.proxy.Retire())
		select {
		case c.retired <- struct{}{}:
		default: // it knows
		}
	})
	mux.HandleFunc("POST "+edge.StopPath, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, nil, nil)
		c.stop()
	})
	return mux
}

func (c *control) getStatus(w http.ResponseWriter, _ *http.Request) {
	s := c.status
	s.Owners, s.Requests = len(c.proxy.Routes()), c.proxy.requests.Load()
	s.Services = c.proxy.services()
	reply(w, s, nil)
}

func (c *control) withRoutes(w http.ResponseWriter, r *http.Request, do func(string, []deploy.EdgeRoute) error) {
	owner := r.URL.Query().Get("owner")
	var routes []deploy.EdgeRoute
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRoutes))
	d.DisallowUnknownFields()
	if err := d.Decode(&routes); err != nil || owner == "" {
		reply(w, nil, runner.Errorf(runner.ErrInvalid, "routes of %q: %w", owner, err))
		return
	}
	reply(w, nil, do(owner, routes))
}

func (c *control) alive(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-c.ending:
	case <-r.Context().Done():
	}
}

// reply answers with a value, or an error.
func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		status := http.StatusInternalServerError
		for code, kind := range edge.Statuses() {
			if errors.Is(err, kind) {
				status = code
			}
		}
		w.WriteHeader(status)
		v = edge.Problem{Message: err.Error()}
	}
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // whoever asked is gone
	}
}

// listenControl listens on a unix socket that only root may use, in place of one that
// is there.
func listenControl(path string) (net.Listener, error) {
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	//nolint:gosec // the path is the daemon's
	if err := os.Remove(hidden); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // a successor may have it
	//nolint:gosec // the path is the daemon's
	if err := errors.Join(os.Chmod(hidden, 0o600), os.Rename(hidden, path)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
