package e2e

import (
	"bytes"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestScaleOutage takes the database and the bucket away, one after the other. Clients
// wait for a database that only starts again, and are told clearly that a bucket is away;
// servers go on by themselves, and stop as they should meanwhile.
func TestScaleOutage(t *testing.T) {
	t.Parallel()
	r := berthtest.StartReplicas(t, 2, berthtest.Options{Env: []string{noRedirect}})
	w := newWire(r.URL)
	manifest, layer, err := w.smallImage("outage", "v1", 1, 50_000)
	if err != nil {
		t.Fatal(err)
	}
	blob := "/v2/outage/blobs/" + layer.String()

	r.Postgres.Kill()
	stops(t, r, 1, "a database")
	var waiting sync.WaitGroup
	for _, path := range []string{blob, "/v2/outage/manifests/" + manifest.String(), "/v2/outage/tags/list"} {
		waiting.Go(func() {
			if _, err := w.must(http.StatusOK, "GET", path, nil); err != nil {
				t.Errorf("while the database starts again: %v", err)
			}
		})
	}
	waiting.Go(func() {
		if _, _, err := w.smallImage("outage", "v2", 2, 50_000); err != nil {
			t.Errorf("a push while the database starts again: %v", err)
		}
	})
	r.Postgres.Start()
	waiting.Wait()
	r.Restart(1)

	r.S3.Kill()
	refusedClearly(t, w, "GET", blob, nil)
	refusedClearly(t, w, "POST", "/v2/outage/blobs/uploads/?digest="+digest.FromString("y").String(), []byte("y"))
	if a := must(w.do("GET", "/v2/outage/tags/list", nil))(t); a.status != http.StatusOK {
		t.Errorf("tags without a bucket: %s", a)
	}
	stops(t, r, 1, "a bucket")
	r.S3.Start()
	r.Restart(1)
	for _, s := range r.Servers {
		w := newWire(s.URL)
		w.verify(t, "outage", manifest, layer)
		w.serves(t, 3)
	}
}

// stops ends a server as SIGTERM does.
func stops(t *testing.T, r *berthtest.Replicas, i int, without string) {
	t.Helper()
	began := time.Now()
	r.Stop(i)
	t.Logf("without %s a server stops within %v", without, time.Since(began).Round(time.Millisecond))
}

// refusedClearly checks that a request fails as it should while a store is away: soon
// enough for a client that waits, with an error that says so.
func refusedClearly(t *testing.T, w *wire, method, path string, body []byte) {
	t.Helper()
	began := time.Now()
	a, err := w.do(method, path, bytes.NewReader(body))
	took := time.Since(began)
	if err != nil || a.status < http.StatusInternalServerError || a.clear() != nil {
		t.Errorf("%s %s while a store is away: %s, %v", method, path, a, err)
	}
	t.Logf("%s %s: %d after %v", method, path, a.status, took.Round(time.Millisecond))
}
