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
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			r := berthtest.StartReplicas(t, 3, berthtest.Options{})
			conform(t, version, r.Addr)
			if served := r.Served(); slices.Min(served) < 50 {
				t.Errorf("the servers were given %d requests", served)
			}
		})
	}
}
