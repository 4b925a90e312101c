package stack

import (
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/signal"
)

// checkValues refuses what Compose lets pass and the engine would refuse once a
// deployment has begun, or what would mean nothing.
func (t *translation) checkValues(p keys, s types.ServiceConfig) {
	t.checkRestart(p, s)
	t.checkHealth(p.at("healthcheck"), s.HealthCheck)
	if _, err := signal.ParseSignal(s.StopSignal); s.StopSignal != "" && err != nil {
		t.addf(p.at("stop_signal"), "%v", err)
	}
	if s.WorkingDir != "" && !path.IsAbs(s.WorkingDir) {
		t.addf(p.at("working_dir"), "the working directory '%s' is invalid, it needs to be an absolute path", s.WorkingDir)
	}
	if s.CPUS < 0 {
		t.addf(p.at("cpus"), "%v is less than 0", s.CPUS)
	}
	if s.CPUS > 0 && (s.CPUQuota != 0 || s.CPUPeriod != 0) {
		t.addf(p.at("cpus"), "cpus goes neither with cpu_quota nor with cpu_period")
	}
	for name, u := range byKey(s.Ulimits) {
		if u != nil && u.Hard >= 0 && (u.Soft > u.Hard || u.Soft < 0) && u.Single == 0 {
			t.addf(p.at("ulimits", name), "ulimit soft limit must be less than or equal to hard limit: %d > %d", u.Soft, u.Hard)
		}
	}
	for i, v := range s.Volumes {
		at, target := p.at("volumes").index(i), path.Clean(v.Target)
		switch {
		case !path.IsAbs(target):
			t.addf(at, "invalid mount path: '%s' mount path must be absolute", v.Target)
		case target == "/":
			t.addf(at, "invalid specification: destination can't be '/'")
		}
	}
}

// checkRestart refuses policies that the engine does not know, and those that say less
// than they seem to.
func (t *translation) checkRestart(p keys, s types.ServiceConfig) {
	name, count, counted := strings.Cut(s.Restart, ":")
	switch container.RestartPolicyMode(name) {
	case "", "no", "always", "unless-stopped", "on-failure":
	default:
		t.addf(p.at("restart"), "invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", name)
		counted = false
	}
	if n, err := strconv.Atoi(count); counted && name == "on-failure" && (err != nil || n < 0) {
		t.addf(p.at("restart"), "invalid restart policy: %q is no number of attempts", count)
	} else if counted && name != "on-failure" {
		t.addf(p.at("restart"), "invalid restart policy: maximum retry count can only be used with 'on-failure'")
	}
	if s.Deploy == nil || s.Deploy.RestartPolicy == nil {
		return
	}
	at, r := p.at("deploy", "restart_policy"), s.Deploy.RestartPolicy
	switch r.Condition {
	case "on-failure":
	case "any", "none", "":
		if r.MaxAttempts != nil {
			t.addf(at.at("max_attempts"), "attempts are counted with condition: on-failure alone")
		}
	default:
		t.addf(at.at("condition"), "%q is none of any, on-failure and none", r.Condition)
	}
}

// checkHealth refuses times that the engine refuses.
func (t *translation) checkHealth(p keys, h *types.HealthCheckConfig) {
	if h == nil {
		return
	}
	for key, d := range map[string]*types.Duration{"interval": h.Interval, "timeout": h.Timeout, "start_period": h.StartPeriod, "start_interval": h.StartInterval} {
		if v := durationOf(d); v != 0 && v < time.Millisecond {
			t.addf(p.at(key), "%s in Healthcheck cannot be less than 1ms", key)
		}
	}
}
