package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestScaleClients drives real clients through a proxy that gives each of their
// requests to the next of three servers; they get blobs from S3, or from the servers.
func TestScaleClients(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	for name, env := range map[string][]string{"redirects": nil, "no redirects": {noRedirect}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := berthtest.StartReplicas(t, 3, berthtest.Options{Env: env})
			redirects(t, r, env == nil)
			t.Run("docker", func(t *testing.T) { scaleDocker(t, r) })
			t.Run("skopeo", func(t *testing.T) {
				skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + r.Addr + "/skopeo/index"}.index(t)
				skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + r.Addr + "/skopeo/tags"}.tags(t)
			})
			t.Run("oras", func(t *testing.T) { testORAS(t, r.Addr) })
			if served := r.Served(); slices.Min(served) < 20 {
				t.Errorf("the servers were given %d requests", served)
			}
			if _, open := r.S3.Left(); len(open) > 0 {
				t.Errorf("multipart uploads are left: %q", open)
			}
		})
	}
	t.Run("crane", func(t *testing.T) { // it wants the whole catalog to be its own
		t.Parallel()
		testCrane(t, berthtest.StartReplicas(t, 3, berthtest.Options{}).Addr)
	})
}

// redirects checks that a client is sent to S3 for a blob, unless it does not want that,
// and that what it gets there is the blob.
func redirects(t *testing.T, r *berthtest.Replicas, on bool) {
	t.Helper()
	w := newWire(r.URL)
	_, layer, err := w.smallImage("redirected", "v1", 1, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // on each server
		a := must(w.pullBlob("redirected", layer))(t)
		if want := map[bool]int{true: http.StatusTemporaryRedirect, false: http.StatusOK}[on]; a.status != want {
			t.Fatalf("a blob: %d, want %d", a.status, want)
		}
		if to := a.header.Get("Location"); on {
			if !strings.HasPrefix(to, r.S3.Endpoint+"/") {
				t.Errorf("a client is sent to %s", to)
			}
			a = must(w.do("GET", to, nil))(t)
		}
		if a.status != http.StatusOK || digest.FromBytes(a.body) != layer {
			t.Errorf("a blob: %d, %d bytes", a.status, len(a.body))
		}
		a = must(w.do("GET", "/v2/redirected/blobs/"+layer.String(), nil, "Berth-Redirect", "no"))(t)
		if a.status != http.StatusOK || digest.FromBytes(a.body) != layer {
			t.Errorf("a blob for who does not want to be redirected: %d, %d bytes", a.status, len(a.body))
		}
		a = must(w.do("HEAD", "/v2/redirected/blobs/"+layer.String(), nil))(t)
		if a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") != layer.String() {
			t.Errorf("HEAD of a blob: %d", a.status)
		}
	}
}

// scaleDocker has dockerd push and pull: small layers, and one of several parts.
func scaleDocker(t *testing.T, r *berthtest.Replicas) {
	t.Helper()
	d := docker{startDocker(t, nil), "localhost:" + r.Port()}
	d.roundTrip(t, d.build(t, "An image of many colours", map[string][]byte{"small": []byte("small")}), "colours")
	d.roundTrip(t, d.build(t, "An image of great weight", map[string][]byte{"large": randomBytes(2, 40<<20)}), "heavy/weight")
}
