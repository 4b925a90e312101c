package e2e

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestConformance runs the specification's own conformance suite: of 1.1, and of
// what its main branch adds. Nothing may fail, and nothing may be left out.
func TestConformance(t *testing.T) {
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := berthtest.Start(t, berthtest.Options{})
			conform(t, version, s.Addr, nil)
		})
	}
}

// conform runs the suite of a version of the specification against an address, and
// demands that it leaves out nothing but the tests whose names end as given.
func conform(t *testing.T, version, addr string, leftOut []string, env ...string) {
	t.Helper()
	results := t.TempDir()
	stdout, stderr, err := berthtest.NewCommand(t, "conformance").Dir(results).Env(
		"OCI_VERSION="+version, "OCI_REGISTRY="+addr, "OCI_TLS=disabled", "OCI_RESULTS_DIR="+results,
	).Env(env...).Try()
	report := readConformance(t, filepath.Join(results, "junit.xml"))
	t.Logf("conformance %s: %d tests, %d failures, %d errors, %d skipped, %d disabled",
		version, report.Tests, report.Failures, report.Errors, report.Skipped, report.Disabled)
	if err != nil || report.Failures+report.Errors > 0 {
		t.Errorf("conformance: %v\n%s%s", err, stdout, stderr)
	}
	var skipped []string // what another version asks for is disabled, not skipped
	for _, name := range report.leftOut() {
		if !slices.ContainsFunc(leftOut, func(end string) bool { return strings.HasSuffix(name, end) }) {
			skipped = append(skipped, name)
		}
	}
	if report.Tests == 0 || len(skipped) > 0 {
		t.Errorf("conformance ran %d tests and left out %q", report.Tests, skipped)
	}
}

// conformance is the suite's report, in the format of JUnit.
type conformance struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Skipped  int `xml:"skipped,attr"`
	Disabled int `xml:"disabled,attr"`
	Suites   []struct {
		Cases []struct {
			Name    string    `xml:"name,attr"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func (c *conformance) leftOut() (names []string) {
	for _, s := range c.Suites {
		for _, test := range s.Cases {
			if test.Skipped != nil {
				names = append(names, test.Name)
			}
		}
	}
	return names
}

func readConformance(t *testing.T, path string) (c conformance) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("conformance wrote no report: %v", err)
	}
	if err := xml.Unmarshal(data, &c); err != nil {
		t.Fatalf("read the report of conformance: %v", err)
	}
	return c
}
