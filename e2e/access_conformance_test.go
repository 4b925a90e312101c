package e2e

import (
	"crypto/rand"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

const conformancePolicy = `- {who: [tester], repos: ["**"], may: [pull, push, delete]}`

// TestAccessConformance runs the specification's own conformance suite by an account
// that may do anything but administer: nothing may fail.
func TestAccessConformance(t *testing.T) {
	t.Parallel()
	for _, challenge := range []string{"bearer", "basic"} {
		for _, version := range []string{"1.1", "dev"} {
			t.Run(challenge+"/"+version, func(t *testing.T) {
				t.Parallel()
				g := startGuarded(t, berthtest.Options{}, "auth: {challenge: "+challenge+"}", conformancePolicy)
				password := g.user("tester")
				results := t.TempDir()
				conformance := func(password string) (output string, err error) {
					stdout, stderr, err := berthtest.NewCommand(t, "conformance").Dir(results).Env(
						"OCI_VERSION="+version, "OCI_REGISTRY="+g.Addr, "OCI_TLS=disabled", "OCI_RESULTS_DIR="+results,
						"OCI_REPO1=conformance/one", "OCI_REPO2=conformance/two", "OCI_USERNAME=tester", "OCI_PASSWORD="+password,
					).Try()
					return stdout + stderr, err
				}
				output, err := conformance(password)
				report := readConformance(t, filepath.Join(results, "junit.xml"))
				t.Logf("conformance %s: %d tests, %d failures, %d errors, %d skipped, %d disabled",
					version, report.Tests, report.Failures, report.Errors, report.Skipped, report.Disabled)
				if err != nil || report.Failures+report.Errors > 0 {
					t.Errorf("conformance: %v\n%s", err, output)
				}
				if report.Tests < 100 {
					t.Errorf("conformance ran %d tests", report.Tests)
				}
				// No token is for all repositories, so what may be mounted from any of them is
				// uploaded instead, once for each algorithm. Nothing else may be left out.
				skipped := map[string]int{"bearer": 2}[challenge]
				if report.Skipped != skipped || strings.Count(output, "fell back to blob POST+PUT") > skipped {
					t.Errorf("conformance left out %d tests, want %d", report.Skipped, skipped)
				}
				// It is by the password that all of this went well.
				g.send(nil, http.StatusUnauthorized, "GET", "/v2/conformance/one/tags/list", nil)
				g.send(g.basic("tester", "not-"+rand.Text()), http.StatusUnauthorized, "GET", "/v2/conformance/one/tags/list", nil)
			})
		}
	}
}
