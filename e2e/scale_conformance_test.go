package e2e

import (
	"slices"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestScaleConformance runs the specification's own conformance suite against three
// servers that share S3 and PostgreSQL, each request on the next of them: nothing may
// fail, and nothing may be left out.
func TestScaleConformance(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := berthtest.StartReplicas(t, 3, berthtest.Options{Env: []string{noRedirect}})
			conform(t, version, r.Addr, nil)
			if served := r.Served(); slices.Min(served) < 200 {
				t.Errorf("the servers were given %d requests", served)
			}
		})
		// Where clients get blobs from S3, what they get is S3's answer: it has no
		// Docker-Content-Digest, which the suite wants of a blob since 1.1, and it ignores
		// a range that ends before it begins.
		t.Run(version+" with redirects", func(t *testing.T) {
			t.Parallel()
			r := berthtest.StartReplicas(t, 3, berthtest.Options{})
			conform(t, version, r.Addr, []string{"range 500-0"}, "OCI_API_BLOBS_DIGEST_HEADER=false")
			if served := r.Served(); slices.Min(served) < 200 {
				t.Errorf("the servers were given %d requests", served)
			}
		})
	}
}

// noRedirect has servers send blobs themselves.
const noRedirect = "BERTH_STORAGE_S3_REDIRECT=false"
