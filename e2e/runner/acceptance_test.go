package runner

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestAcceptance drives the docker command through what the seed documents
// teach, one group of checks after the other, each on a host of its own.
func TestAcceptance(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"lifecycle", "interactive", "logs", "exec", "images", "registry", "search", "monitoring", "misc", "volumes", "network", "build", "limits", "restart"} {
		t.Run(group, func(t *testing.T) {
			t.Parallel()
			run := newAcceptance(t)
			out, stderr, err := run(group)
			checks, whole := parseTAP(out)
			if i := slices.IndexFunc(checks, func(c check) bool { return strings.Contains(c.name, alone) }); i >= 0 {
				if !checks[i].ok {
					err = nil // it is what the test ends with, if nothing else fails
				}
				checks = slices.Delete(checks, i, i+1)
			}
			report(t, again(checks, run), whole, stderr, err)
		})
	}
}

// alone is what a check says that measures how much of a processor a container
// gets. Beside other tests it may get less.
const alone = "half a core (measured)"

// TestAcceptanceAlone runs, beside no other test, what TestAcceptance leaves out.
func TestAcceptanceAlone(t *testing.T) {
	out, stderr, err := newAcceptance(t)("-k", regexp.QuoteMeta(alone))
	checks, whole := parseTAP(out)
	if len(checks) != 1 {
		t.Errorf("%d checks were run, want 1", len(checks))
	}
	report(t, checks, whole, stderr, err)
}

// newAcceptance returns the acceptance test, for a host of its own.
func newAcceptance(t *testing.T) (run func(args ...string) (stdout, stderr string, err error)) {
	t.Helper()
	h := newHost(t, berthtest.MachineOptions{})
	config := t.TempDir()
	pluginsTo(t, config)
	return berthtest.NewCommand(t, "bash", acceptance(t, "seeds.sh")).On(h.Machine).
		Env("DOCKER_HOST=unix:///run/berth/runner.sock", "REGISTRY="+strings.TrimSuffix(h.repository(""), "/"), "STRICT=1", "DOCKER_CONFIG="+config,
			"ENGINE_RESTART="+h.Restarter()).Try
}

// check is one of the acceptance test's.
type check struct {
	name    string
	ok      bool
	skipped string // why
	output  string
}

var (
	tapResult = regexp.MustCompile(`^(not ok|ok) \d+ - (.*?)(?: # SKIP (.*))?$`)
	tapPlan   = regexp.MustCompile(`^\d+ passed, \d+ failed$`)
)

// parseTAP reads what the acceptance test prints: a line for each check, the
// output of those that failed below it, and a last line that counts.
func parseTAP(text string) (checks []check, whole bool) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := tapResult.FindStringSubmatch(line); m != nil {
			checks = append(checks, check{name: m[2], ok: m[1] == "ok", skipped: m[3]})
		} else if out, ok := strings.CutPrefix(line, "#   "); ok && len(checks) > 0 {
			checks[len(checks)-1].output += out + "\n"
		}
		whole = tapPlan.MatchString(line)
	}
	return checks, whole
}

// again runs a check once more that compares the speed of a container with the
// host's and failed: other tests are at work too, and may have hit one of them.
func again(checks []check, run func(...string) (stdout, stderr string, err error)) []check {
	for i, c := range checks {
		const compares = "as fast as on the host"
		if c.ok || !strings.Contains(c.name, compares) {
			continue
		}
		out, _, _ := run("-k", compares) // what it finds is in what it prints
		if once, _ := parseTAP(out); len(once) == 1 {
			checks[i] = once[0]
		}
	}
	return checks
}

// report makes a subtest of each check.
func report(t *testing.T, checks []check, whole bool, stderr string, err error) {
	t.Helper()
	failed := false
	for _, c := range checks {
		if c.skipped != "" {
			t.Logf("skipped for what this environment lacks: %s: %s", c.name, c.skipped)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if !c.ok {
				failed = true
				t.Errorf("%s", c.output)
			}
		})
	}
	if !whole || err != nil && !failed {
		t.Errorf("the acceptance test ended early: %v\n%s", err, stderr)
	}
}
