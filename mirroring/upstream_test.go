package mirroring

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/upstream"
)

// The client of a mirror's upstream says when it is limited, and a job obeys.
func TestUpstreamLimits(t *testing.T) {
	for _, tt := range []struct {
		what    string
		refuse  func(w http.ResponseWriter)
		outcome string
		reason  string
		next    time.Duration
	}{
		{"429 for an hour", func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}, Postponed, "429", time.Hour},
		{"503 for an hour", func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
		}, Postponed, "503", time.Hour},
		{"403", func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, Failed, "1 of 1 tags failed", time.Minute},
	} {
		t.Run(tt.what, func(t *testing.T) {
			there, here := newStore(t), newStore(t)
			there.image("app", "x", nil, "v1")
			refused := true
			h := registry.NewServer(there.local, registry.ServerOptions{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if refused && strings.Contains(r.URL.Path, "/manifests/") {
					tt.refuse(w)
					return
				}
				h.ServeHTTP(w, r)
			}))
			t.Cleanup(server.Close)
			client := func() Upstream {
				u, err := upstream.New(upstream.Options{Name: "hub", URL: server.URL, Username: "me", Password: "hunter2"})
				if err != nil {
					t.Fatal(err)
				}
				return Upstream{Source: u.Client(), Unavailable: u.Unavailable}
			}
			w := newWorker(t, client(), here, job(t, Spec{Tags: []string{"v1"}, Prefix: "hub"}))
			last, _ := mirror(t, w, false)
			all, err := w.Status(t.Context())
			if err != nil || last.Outcome != tt.outcome || !strings.Contains(last.Reason, tt.reason) || all[0].Next.Sub(last.Ended).Round(time.Minute) != tt.next {
				t.Errorf("got %+v, next %s, %v", last, all[0].Next, err)
			}
			if strings.Contains(last.Reason, "hunter2") {
				t.Errorf("told %s", last.Reason)
			}
			refused = false
			w = newWorker(t, client(), here, job(t, Spec{Tags: []string{"v1"}, Prefix: "hub"}))
			if last, _ := mirror(t, w, false); last.Outcome != Good {
				t.Errorf("after that: %+v", last)
			}
		})
	}
}
