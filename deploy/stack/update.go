package stack

import (
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/deploy"
)

// What is so where a Compose file does not say it.
const (
	DefaultKeep      = 2                // versions before, whose containers are kept
	DefaultMonitor   = 5 * time.Second  // for which a gate has to hold, as Swarm has it
	DefaultStopGrace = 10 * time.Second // from the stop signal to SIGKILL
	DefaultDrain     = 30 * time.Second // that connections of the old version get
)

// update decides how a service goes from one version to the next.
func (t *translation) update(p keys, s types.ServiceConfig, ext serviceExtension, out *deploy.Service) {
	out.Update = deploy.Update{Parallelism: 1, Monitor: DefaultMonitor, FailureAction: deploy.OnFailureRollback}
	at := p.at("deploy", "update_config")
	if s.Deploy != nil && s.Deploy.UpdateConfig != nil {
		t.updateConfig(at, s.Deploy.UpdateConfig, &out.Update)
	}
	stopFirst := t.has(at.at("order")) && !out.Update.StartFirst
	out.Strategy, out.Steps = ext.strategy, ext.steps
	if out.Strategy == "" {
		out.Strategy = deploy.Rolling
		if !out.Job && !stopFirst && (len(out.Ports) > 0 || len(out.Routes) > 0) {
			out.Strategy = deploy.BlueGreen
		}
	}
	if out.Strategy == deploy.Rolling {
		return
	}
	if stopFirst {
		t.addf(at.at("order"), "stop-first is how x-berth: {strategy: rolling} goes; %s starts the new version beside the old", out.Strategy)
	}
	for _, key := range []string{"parallelism", "delay"} {
		if t.has(at.at(key)) {
			t.warnf(at.at(key), "means nothing to strategy %s, which starts all replicas beside the old ones; x-berth: {strategy: rolling} replaces them by and by", out.Strategy)
		}
	}
}

func (t *translation) updateConfig(p keys, c *types.UpdateConfig, out *deploy.Update) {
	if c.Parallelism != nil {
		out.Parallelism = int(min(*c.Parallelism, 1<<20))
	}
	if out.Delay = time.Duration(c.Delay); out.Delay < 0 {
		t.addf(p.at("delay"), "a time cannot be less than 0")
	}
	if t.has(p.at("monitor")) {
		out.Monitor = time.Duration(c.Monitor)
	}
	if out.Monitor < 0 {
		t.addf(p.at("monitor"), "a time cannot be less than 0")
	}
	switch a := deploy.FailureAction(c.FailureAction); a {
	case "":
	case deploy.OnFailureRollback, deploy.OnFailurePause, deploy.OnFailureContinue:
		out.FailureAction = a
	default:
		t.addf(p.at("failure_action"), "%q is none of rollback, pause and continue", a)
	}
	switch c.Order {
	case "", "stop-first":
	case "start-first":
		out.StartFirst = true
	default:
		t.addf(p.at("order"), "%q is neither stop-first nor start-first", c.Order)
	}
}

// checkImage wants an image: Berth does not build.
func (t *translation) checkImage(p keys, s types.ServiceConfig) {
	switch {
	case s.Image == "" && s.Build != nil:
		t.unsupportedf(p.at("build"), "build the image, push it, and name it by image")
	case s.Image == "" && !t.has(p.at("provider")):
		t.addf(p, "the service needs an image")
	case s.Build != nil:
		t.warnf(p.at("build"), "is not looked at: the image is taken as it is in its registry")
	}
	if s.Image == "" {
		return
	}
	if _, err := reference.ParseAnyReference(s.Image); err != nil {
		t.addf(p.at("image"), "%q: %v", s.Image, err)
	}
}

// digestOf returns the digest that a reference is pinned to, or none.
func digestOf(image string) digest.Digest {
	if named, err := reference.ParseNormalizedNamed(image); err == nil {
		if d, ok := named.(reference.Digested); ok {
			return d.Digest()
		}
	}
	return ""
}

func (t *translation) pull(p keys, s types.ServiceConfig) deploy.PullPolicy {
	switch s.PullPolicy {
	case "", types.PullPolicyMissing, types.PullPolicyIfNotPresent:
		return deploy.PullMissing
	case types.PullPolicyAlways:
		return deploy.PullAlways
	case types.PullPolicyNever:
		return deploy.PullNever
	}
	t.unsupportedf(p.at("pull_policy"), "%q is none of missing, always and never", s.PullPolicy)
	return deploy.PullMissing
}

// needs are the services that have to be there before this one.
func (t *translation) needs(p keys, s types.ServiceConfig) []deploy.Need {
	var out []deploy.Need
	for name, d := range byKey(s.DependsOn) {
		at := p.at("depends_on", name)
		n := deploy.Need{Service: name, Condition: deploy.Condition(d.Condition), Restart: d.Restart, Optional: !d.Required}
		other := t.project.Services[name]
		switch n.Condition {
		case "":
			n.Condition = deploy.NeedStarted
		case deploy.NeedStarted, deploy.NeedCompleted:
		case deploy.NeedHealthy:
			if h := other.HealthCheck; h != nil && (h.Disable || len(h.Test) > 0 && h.Test[0] == "NONE") {
				t.addf(at, "the health check of %s is disabled", name)
			}
		default:
			t.addf(at, "%q is none of service_started, service_healthy and service_completed_successfully", d.Condition)
		}
		out = append(out, n)
	}
	return out
}

// findJobs finds the services that are to end: those that say so, and those that
// others wait for the end of.
func (t *translation) findJobs() {
	t.jobs = map[string]bool{}
	for name, s := range t.project.Services {
		ext, stated := t.jobOf(keys{"services", name})
		t.jobs[name] = ext || (!stated && s.Deploy != nil && s.Deploy.Mode == "replicated-job")
	}
	for user, s := range byKey(t.project.Services) {
		for name, d := range byKey(s.DependsOn) {
			if d.Condition != string(deploy.NeedCompleted) || t.jobs[name] {
				continue
			}
			if _, stated := t.jobOf(keys{"services", name}); stated {
				t.addf(keys{"services", user, "depends_on", name}, "%s is no job by its x-berth, and so does not end", name)
				continue
			}
			t.jobs[name] = true
		}
	}
	for name, s := range byKey(t.project.Services) {
		t.checkMode(keys{"services", name}, s)
	}
}

// checkMode refuses what Swarm does and one host does not, and what a job cannot have.
func (t *translation) checkMode(p keys, s types.ServiceConfig) {
	if d := s.Deploy; d != nil {
		switch d.Mode {
		case "", "replicated", "replicated-job":
		default:
			t.unsupportedf(p.at("deploy", "mode"), "%q: there is one host; say replicas", d.Mode)
		}
		switch d.EndpointMode {
		case "", "dnsrr":
		case "vip":
			t.unsupportedf(p.at("deploy", "endpoint_mode"), "the name of a service leads to its containers' own addresses; say dnsrr")
		default:
			t.addf(p.at("deploy", "endpoint_mode"), "%q is neither vip nor dnsrr", d.EndpointMode)
		}
	}
	if !t.jobs[s.Name] {
		return
	}
	if s.GetScale() != 1 {
		at := p.at("scale")
		if !t.has(at) {
			at = p.at("deploy", "replicas")
		}
		t.addf(at, "a job is run once for each version, and not %d times", s.GetScale())
	}
	if len(s.Ports) > 0 {
		t.addf(p.at("ports"), "a job publishes no ports: it ends")
	}
	if r := restartPolicy(s); r.IsAlways() || r.IsUnlessStopped() {
		at := p.at("restart")
		if !t.has(at) {
			at = p.at("deploy", "restart_policy", "condition")
		}
		t.addf(at, "a job is to end: say no or on-failure")
	}
}

// checkTwice refuses and tells what does not go well with two versions beside each
// other.
func (t *translation) checkTwice(p keys, s types.ServiceConfig, out *deploy.Service) {
	how := "strategy " + string(out.Strategy)
	instead := "say x-berth: {strategy: rolling}, which stops the old first"
	switch {
	case out.Strategy != deploy.Rolling:
	case out.Update.StartFirst:
		how, instead = "order: start-first", "say stop-first"
	case out.Replicas > 1:
		how, instead = "more than one replica", "say replicas: 1"
	default:
		return
	}
	refuse := func(at keys, what string) {
		t.addf(at, "%s cannot be had by two containers at a time, as %s has it: %s", what, how, instead)
	}
	if s.NetworkMode == "host" {
		refuse(p.at("network_mode"), "the host's network")
	}
	for name, n := range byKey(s.Networks) {
		if n == nil {
			continue
		}
		for key, v := range map[string]string{"ipv4_address": n.Ipv4Address, "ipv6_address": n.Ipv6Address, "mac_address": n.MacAddress} {
			if v != "" {
				refuse(p.at("networks", name, key), "a fixed address")
			}
		}
	}
	if s.MacAddress != "" {
		refuse(p.at("mac_address"), "a fixed address")
	}
	if out.Strategy == deploy.Rolling && !out.Update.StartFirst {
		return
	}
	for i, port := range s.Ports {
		if port.Mode == "host" {
			refuse(p.at("ports").index(i), "a port in mode host")
		}
	}
	for i, v := range s.Volumes {
		named := v.Type == types.VolumeTypeVolume && v.Source != ""
		if (named || v.Type == types.VolumeTypeBind) && !v.ReadOnly && !strings.HasSuffix(v.Source, ".sock") {
			t.warnf(p.at("volumes").index(i), "both versions write to %s at the same time while they are beside each other, as %s has it; if the program does not bear that, %s", v.Source, how, instead)
		}
	}
}
