package runner

import (
	"regexp"
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
			h := newHost(t, berthtest.MachineOptions{})
			config := t.TempDir()
			pluginsTo(t, config)
			run := berthtest.NewCommand(t, "bash", acceptance(t, "seeds.sh")).On(h.Machine).
				Env("DOCKER_HOST=unix:///run/berth/runner.sock", "REGISTRY="+strings.TrimSuffix(h.repository(""), "/"), "STRICT=1", "DOCKER_CONFIG="+config,
					"ENGINE_RESTART="+h.Restarter()).Try
			out, stderr, err := run(group)
			checks, whole := parseTAP(out)
			report(t, again(checks, run), whole, stderr, err)
		})
	}
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
