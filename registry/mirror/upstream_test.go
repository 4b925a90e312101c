package mirror_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/mirror"
	"github.com/berth-registry/berth/registry/upstream"
)

// TestStatuses: what an upstream says of itself reaches who asks for what is not
// cached, and nobody else.
func TestStatuses(t *testing.T) {
	for status, want := range map[int]struct {
		kind  *registry.Error
		after string
	}{
		http.StatusTooManyRequests:     {registry.ErrTooMany, "77"},
		http.StatusServiceUnavailable:  {registry.ErrUnavailable, "77"},
		http.StatusInternalServerError: {registry.ErrUnavailable, ""},
		http.StatusForbidden:           {registry.ErrDenied, ""},
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			u := newTheirs(t)
			up, err := upstream.New(upstream.Options{Name: "hub", URL: u.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer up.Close()
			o := newOurs(t, u, func(m *mirror.Upstream, _ *mirror.Options) {
				m.Remote, m.Unavailable = up.Client(), up.Unavailable
			})
			a := push(t, u, "app", "v1", 1, 100)
			has(t, o, "hub/app", tagged("v1"), a)
			hasBlobs(t, o, "hub/app", a)
			o.settled(t)
			o.clock.advance(time.Hour)
			u.fail(func(w http.ResponseWriter, _ *http.Request) bool {
				if want.after != "" {
					w.Header().Set("Retry-After", want.after)
				}
				w.WriteHeader(status)
				return true
			})
			c := served(t, o)
			for range 3 {
				has(t, c, "hub/app", tagged("v1"), a)
				hasBlobs(t, c, "hub/app", a)
			}
			for _, path := range []string{"/manifests/v2", "/blobs/" + string(u.absent()), "/manifests/" + string(u.absent())} {
				resp, err := http.Get(c.url + "/v2/hub/app" + path)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != want.kind.Status {
					t.Errorf("%s: %d, want %d", path, resp.StatusCode, want.kind.Status)
				}
				if got := resp.Header.Get("Retry-After"); want.after != "" && got != want.after && got != "76" {
					t.Errorf("%s: Retry-After %q, want %q", path, got, want.after)
				}
			}
		})
	}
}
