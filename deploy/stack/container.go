package stack

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/moby/api/types/container"
)

// byKey goes over a map in the order of its keys: equal Compose files make equal
// stacks.
func byKey[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func durationOf(d *types.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return time.Duration(*d)
}

// container is the request that docker compose would make, without a name and
// published ports.
func (t *translation) container(p keys, s types.ServiceConfig) container.CreateRequest {
	mode, endpoints := t.endpoints(p, s)
	return container.CreateRequest{
		Config:           t.config(p, s),
		HostConfig:       t.hostConfig(p, s, mode),
		NetworkingConfig: endpoints,
	}
}

func (t *translation) config(p keys, s types.ServiceConfig) *container.Config {
	c := &container.Config{
		Hostname:        s.Hostname,
		Domainname:      s.DomainName,
		User:            s.User,
		ExposedPorts:    t.exposed(p, s),
		Tty:             s.Tty,
		OpenStdin:       s.StdinOpen,
		AttachStdout:    true,
		AttachStderr:    true,
		Cmd:             s.Command,
		Image:           s.Image,
		WorkingDir:      s.WorkingDir,
		Entrypoint:      s.Entrypoint,
		NetworkDisabled: s.NetworkMode == "disabled",
		Labels:          map[string]string{},
		StopSignal:      s.StopSignal,
		Env:             t.environment(s),
		Healthcheck:     t.healthcheck(p.at("healthcheck"), s.HealthCheck),
	}
	maps.Copy(c.Labels, s.Labels)
	for key := range s.Labels {
		if strings.HasPrefix(key, "com.docker.compose.") || strings.HasPrefix(key, "dev.berth.") {
			t.addf(p.at("labels", key), "the deployment itself sets the labels com.docker.compose.* and dev.berth.*")
		}
	}
	if s.StopGracePeriod != nil {
		seconds := int(durationOf(s.StopGracePeriod).Seconds())
		c.StopTimeout = &seconds
		if *s.StopGracePeriod < 0 {
			t.addf(p.at("stop_grace_period"), "a time cannot be less than 0")
		}
	}
	return c
}

// environment is as the Engine API has it. A variable without a value is taken away
// from what the image sets.
func (t *translation) environment(s types.ServiceConfig) []string {
	var out []string
	for key, v := range byKey(s.Environment) {
		if v == nil {
			out = append(out, key)
			continue
		}
		out = append(out, key+"="+*v)
	}
	return out
}

func (t *translation) healthcheck(p keys, h *types.HealthCheckConfig) *container.HealthConfig {
	if h == nil {
		return nil
	}
	out := &container.HealthConfig{
		Test:          h.Test,
		Interval:      durationOf(h.Interval),
		Timeout:       durationOf(h.Timeout),
		StartPeriod:   durationOf(h.StartPeriod),
		StartInterval: durationOf(h.StartInterval),
	}
	if h.Retries != nil {
		out.Retries = int(min(*h.Retries, 1<<30))
	}
	if h.Disable {
		out.Test = []string{"NONE"}
	}
	if h.StartInterval != nil && h.StartPeriod == nil {
		t.addf(p.at("start_interval"), "healthcheck.start_interval requires healthcheck.start_period to be set")
	}
	return out
}

func (t *translation) hostConfig(p keys, s types.ServiceConfig, mode container.NetworkMode) *container.HostConfig {
	binds, mounts := t.mounts(p, s)
	security, unconfined := t.security(p.at("security_opt"), s.SecurityOpt)
	h := &container.HostConfig{
		Annotations:    s.Annotations,
		Binds:          binds,
		Mounts:         mounts,
		CapAdd:         capabilities(s.CapAdd),
		CapDrop:        capabilities(s.CapDrop),
		NetworkMode:    mode,
		Init:           s.Init,
		IpcMode:        container.IpcMode(s.Ipc),
		CgroupnsMode:   container.CgroupnsMode(s.Cgroup),
		ReadonlyRootfs: s.ReadOnly,
		RestartPolicy:  restartPolicy(s),
		ShmSize:        int64(s.ShmSize),
		Sysctls:        s.Sysctls,
		Resources:      t.resources(p, s),
		VolumeDriver:   s.VolumeDriver,
		VolumesFrom:    t.volumesFrom(p.at("volumes_from"), s.VolumesFrom),
		DNS:            t.dns(p.at("dns"), s.DNS),
		DNSSearch:      s.DNSSearch,
		DNSOptions:     s.DNSOpts,
		ExtraHosts:     extraHosts(s.ExtraHosts),
		SecurityOpt:    security,
		StorageOpt:     s.StorageOpt,
		UsernsMode:     container.UsernsMode(s.UserNSMode),
		UTSMode:        container.UTSMode(s.Uts),
		Privileged:     s.Privileged,
		PidMode:        container.PidMode(s.Pid),
		Tmpfs:          map[string]string{},
		Runtime:        s.Runtime,
		GroupAdd:       s.GroupAdd,
		Links:          externalLinks(s.ExternalLinks),
		OomScoreAdj:    int(s.OomScoreAdj),
		Umask:          s.Umask,
	}
	if s.Logging != nil {
		h.LogConfig = container.LogConfig{Type: s.Logging.Driver, Config: s.Logging.Options}
	}
	for _, m := range s.Tmpfs {
		target, options, _ := strings.Cut(m, ":")
		h.Tmpfs[target] = options
	}
	if unconfined {
		h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
	}
	for key, v := range map[string]string{"ipc": s.Ipc, "pid": s.Pid, "uts": s.Uts, "cgroup": s.Cgroup, "network_mode": s.NetworkMode} {
		if strings.HasPrefix(v, types.ServicePrefix) {
			t.unsupportedf(p.at(key), "%q: the containers of another service are replaced without those of this one", v)
		}
	}
	return h
}

// capabilities are named as Docker's clients name them to the Engine API.
func capabilities(names []string) []string {
	var out []string
	for _, name := range names {
		name = strings.ToUpper(name)
		if name != "ALL" && !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// restartPolicy is as docker compose makes it: deploy.restart_policy goes first. Without
// a condition that is any, as the Compose specification and Swarm have it.
func restartPolicy(s types.ServiceConfig) container.RestartPolicy {
	name, count, _ := strings.Cut(s.Restart, ":")
	attempts, _ := strconv.Atoi(count)
	if s.Deploy != nil && s.Deploy.RestartPolicy != nil {
		name, attempts = cmp.Or(s.Deploy.RestartPolicy.Condition, "any"), 0
		if n := s.Deploy.RestartPolicy.MaxAttempts; n != nil {
			attempts = int(min(*n, 1<<30))
		}
	}
	out := container.RestartPolicy{Name: container.RestartPolicyMode(name), MaximumRetryCount: attempts}
	switch name {
	case "none", "no":
		out.Name = container.RestartPolicyDisabled
	case "any":
		out.Name = container.RestartPolicyAlways
	}
	return out
}

func (t *translation) dns(p keys, servers []string) []netip.Addr {
	var out []netip.Addr
	for i, s := range servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			t.addf(p.index(i), "invalid DNS address: %v", err)
			continue
		}
		out = append(out, addr)
	}
	return out
}

func extraHosts(h types.HostsList) []string {
	out := h.AsList(":")
	slices.Sort(out)
	return out
}

// externalLinks are links to containers of others, by their names.
func externalLinks(links []string) []string {
	var out []string
	for _, l := range links {
		name, alias, ok := strings.Cut(l, ":")
		if !ok {
			alias = name
		}
		out = append(out, name+":"+alias)
	}
	return out
}

// volumesFrom takes the volumes of containers of others.
func (t *translation) volumesFrom(p keys, list []string) []string {
	var out []string
	for i, v := range list {
		name, ok := strings.CutPrefix(v, types.ContainerPrefix)
		if !ok {
			t.unsupportedf(p.index(i), "%q: the containers of another service are replaced without those of this one; name the volume, and mount it in both", v)
			continue
		}
		out = append(out, name)
	}
	return out
}
