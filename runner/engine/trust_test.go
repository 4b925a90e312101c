package engine

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/runner/images/remote"
)

// TestSignaturesOfPrivate has signatures be looked for with what is configured for their
// registry.
func TestSignaturesOfPrivate(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "node" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("a", 64))
		w.Header().Set("Content-Length", "2")
		_, _ = w.Write([]byte("{}"))
	}))
	defer s.Close()
	host := s.Listener.Addr().String()
	c, err := remote.New(remote.Options{Hosts: map[string]remote.Host{host: {PlainHTTP: true}}})
	if err != nil {
		t.Fatal(err)
	}
	named, err := reference.WithName(host + "/app")
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{remote: c, opts: Options{Login: func(asked string) (*registry.AuthConfig, error) {
		if asked != host {
			t.Errorf("asked for %s, want %s", asked, host)
		}
		return &registry.AuthConfig{Username: "node", Password: "secret"}, nil
	}}}
	if _, err := e.signatures(named).Resolve(t.Context(), "sig"); err != nil {
		t.Error(err)
	}
	e.opts.Login = nil
	if _, err := e.signatures(named).Resolve(t.Context(), "sig"); err == nil {
		t.Error("anybody is served")
	}
}
