package spec

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// Validate checks what a container is created with, and fills in the defaults of
// what it leaves open. The warnings are for the client; what they say to be
// discarded is taken out of hc. The error, of the kind ErrInvalid, is the first
// thing that is wrong.
//
// It leaves alone what others know: whether networks, volumes, images and other
// containers exist, the names of log drivers, and what ParseBinds checks.
func Validate(h Host, cfg *container.Config, hc *container.HostConfig, nc *network.NetworkingConfig) (warnings []string, err error) {
	fillDefaults(h, hc)
	for _, check := range []func() error{
		func() error { return checkConfig(cfg) },
		func() error { return checkUnsupported(hc) },
		func() error { return checkNetwork(cfg, hc, nc) },
		func() error { return checkModes(hc) },
		func() error { return checkUserns(h, hc) },
		func() error { return checkHostConfig(h, hc) },
		func() error { return checkSecurity(h, hc) },
		func() error { return checkSysctls(hc) },
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	warnings, err = ValidateResources(h, &hc.Resources, false)
	if err != nil {
		return warnings, err
	}
	if !h.IPv4Forwarding && !hc.NetworkMode.IsHost() && !hc.NetworkMode.IsNone() {
		warnings = append(warnings, "IPv4 forwarding is disabled. Networking will not work.")
	}
	if hc.NetworkMode.IsHost() && len(hc.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	if hc.CgroupnsMode.IsPrivate() && !h.CgroupNamespaces {
		warnings = append(warnings, "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded.")
	}
	return warnings, nil
}

func invalid(format string, args ...any) error {
	return runner.Errorf(runner.ErrInvalid, format, args...)
}

func checkConfig(cfg *container.Config) error {
	if cfg.WorkingDir != "" {
		if !filepath.IsAbs(cfg.WorkingDir) {
			return invalid("the working directory '%s' is invalid, it needs to be an absolute path", cfg.WorkingDir)
		}
		cfg.WorkingDir = filepath.Clean(cfg.WorkingDir)
	}
	if cfg.StopSignal != "" {
		if _, err := signal.ParseSignal(cfg.StopSignal); err != nil {
			return invalid("%w", err)
		}
	}
	for _, entry := range cfg.Env {
		if name, _, _ := strings.Cut(entry, "="); name == "" {
			return invalid("invalid environment variable: %s", entry)
		}
		if strings.Contains(entry, "\x00") {
			return invalid("invalid environment variable: %q", entry)
		}
	}
	return checkHealth(cfg.Healthcheck)
}

func checkHealth(check *container.HealthConfig) error {
	if check == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"Interval", check.Interval},
		{"Timeout", check.Timeout},
		{"StartPeriod", check.StartPeriod},
		{"StartInterval", check.StartInterval},
	} {
		if d.value != 0 && d.value < container.MinimumDuration {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
		}
	}
	if check.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	return nil
}

// checkUnsupported refuses what Berth does not do.
func checkUnsupported(hc *container.HostConfig) error {
	switch {
	case len(hc.StorageOpt) > 0:
		return invalid("--storage-opt is not supported")
	case hc.Cgroup != "":
		return invalid("joining the cgroup of another container is not supported")
	case hc.Isolation != container.IsolationEmpty:
		return invalid("invalid isolation '%s' on linux", hc.Isolation)
	case hc.IOMaximumBandwidth != 0 || hc.IOMaximumIOps != 0:
		return invalid("invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
	case hc.CPUCount != 0:
		return invalid("linux does not support CPU count")
	}
	return nil
}

// checkNetwork checks options that depend on the kind of network.
func checkNetwork(cfg *container.Config, hc *container.HostConfig, nc *network.NetworkingConfig) error {
	if hc.UTSMode.IsHost() && cfg.Hostname != "" {
		return invalid("conflicting options: hostname and the UTS mode")
	}
	if mode := hc.NetworkMode; mode == "container" || mode.IsContainer() {
		switch {
		case mode.ConnectedContainer() == "":
			return invalid("invalid network mode: invalid container format container:<name|id>")
		case cfg.Hostname != "":
			return invalid("conflicting options: hostname and the network mode")
		case len(hc.DNS) > 0:
			return invalid("conflicting options: dns and the network mode")
		case len(hc.ExtraHosts) > 0:
			return invalid("conflicting options: custom host-to-IP mapping and the network mode")
		case len(hc.PortBindings) > 0 || hc.PublishAllPorts:
			return invalid("conflicting options: port publishing and the container type network mode")
		case len(cfg.ExposedPorts) > 0:
			return invalid("conflicting options: port exposing and the container type network mode")
		}
	}
	for _, host := range hc.ExtraHosts {
		name, address, ok := strings.Cut(host, ":")
		if !ok || name == "" {
			return invalid("bad format for add-host: %q", host)
		}
		if address == "host-gateway" {
			continue
		}
		if _, err := netip.ParseAddr(strings.Trim(address, "[]")); err != nil {
			return invalid("invalid IP address in add-host: %q", address)
		}
	}
	for port, bindings := range hc.PortBindings {
		if !port.IsValid() || port.Num() == 0 {
			return invalid("invalid port specification: %q", port.String())
		}
		for _, b := range bindings {
			if b.HostPort == "" {
				continue
			}
			if _, err := network.ParsePortRange(b.HostPort); err != nil {
				return invalid("invalid port specification: %q", b.HostPort)
			}
		}
	}
	if nc == nil {
		return nil
	}
	for name, endpoint := range nc.EndpointsConfig {
		if endpoint == nil {
			return invalid("no EndpointSettings for %s", name)
		}
	}
	return nil
}

// checkModes checks whose namespaces a container is in.
func checkModes(hc *container.HostConfig) error {
	switch {
	case !hc.IpcMode.Valid(), hc.IpcMode.IsContainer() && hc.IpcMode.Container() == "":
		return invalid("invalid IPC mode: %v", hc.IpcMode)
	case !hc.PidMode.Valid():
		return invalid("invalid PID mode: %v", hc.PidMode)
	case !hc.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", hc.UTSMode)
	case !hc.UsernsMode.Valid():
		return invalid("invalid userns mode: %v", hc.UsernsMode)
	case !hc.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", hc.CgroupnsMode)
	}
	return nil
}

func checkHostConfig(h Host, hc *container.HostConfig) error {
	if hc.AutoRemove && !hc.RestartPolicy.IsNone() {
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	if err := container.ValidateRestartPolicy(hc.RestartPolicy); err != nil {
		return invalid("%w", err)
	}
	if hc.ShmSize < 0 {
		return invalid("SHM size can not be less than 0")
	}
	if hc.OomScoreAdj < -1000 || hc.OomScoreAdj > 1000 {
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", hc.OomScoreAdj)
	}
	if len(h.Runtimes) > 0 && !slices.Contains(h.Runtimes, hc.Runtime) {
		return invalid("unknown or invalid runtime name: %s", hc.Runtime)
	}
	for key := range hc.Annotations {
		if key == "" {
			return invalid("invalid Annotations: the empty string is not permitted as an annotation key")
		}
	}
	for destination, options := range hc.Tmpfs {
		if problem := checkTarget(destination); problem != "" {
			return invalid("%s", problem)
		}
		if _, err := tmpfsMount(destination, options); err != nil {
			return err
		}
	}
	for _, d := range hc.Devices {
		if strings.Trim(d.CgroupPermissions, "rwm") != "" || !filepath.IsAbs(d.PathInContainer) {
			return invalid("invalid device: %s:%s:%s", d.PathOnHost, d.PathInContainer, d.CgroupPermissions)
		}
	}
	for _, rule := range hc.DeviceCgroupRules {
		if _, err := parseDeviceRule(rule); err != nil {
			return err
		}
	}
	return checkUlimits(hc.Ulimits)
}

func checkUlimits(limits []*container.Ulimit) error {
	for _, limit := range limits {
		if limit == nil {
			return invalid("invalid ulimit: null")
		}
		if _, err := limit.GetRlimit(); err != nil {
			return invalid("invalid ulimit type: %s", limit.Name)
		}
		if _, err := units.ParseUlimit(limit.String()); err != nil {
			return invalid("%w", err)
		}
	}
	return nil
}

// checkSecurity checks capabilities and security options.
func checkSecurity(h Host, hc *container.HostConfig) error {
	// A privileged container has them all, but what is asked for has to be right.
	asked := *hc
	asked.Privileged = false
	bounding, err := boundingCaps(h, &asked)
	if err != nil {
		return err
	}
	security, err := parseSecurity(hc.SecurityOpt)
	if err != nil {
		return err
	}
	if security.appArmor != "" && security.appArmor != unconfined && !h.AppArmor {
		return invalid("AppArmor is not enabled on this host, cannot apply the profile %s", security.appArmor)
	}
	if security.writableCgroups && !h.CgroupV2 {
		return invalid("option 'writable-cgroups' requires a host with cgroup v2")
	}
	if security.writableCgroups && Remapped(h, hc) {
		return invalid("option 'writable-cgroups' needs --userns host: cgroups belong to the host's root")
	}
	s := &specs.Spec{Process: &specs.Process{Capabilities: userCaps(bounding, 0)}}
	_, err = security.seccompProfile(h, hc.Privileged, s)
	return err
}

// checkSysctls refuses kernel parameters that belong to no namespace of the
// container.
func checkSysctls(hc *container.HostConfig) error {
	ipc := []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}
	for name := range hc.Sysctls {
		name := strings.ReplaceAll(name, "/", ".")
		switch {
		case strings.HasPrefix(name, "net."):
			if hc.NetworkMode.IsHost() {
				return invalid("sysctl %q not allowed in host network namespace", name)
			}
		case slices.Contains(ipc, name) || strings.HasPrefix(name, "fs.mqueue."):
			if hc.IpcMode.IsHost() {
				return invalid("sysctl %q is not allowed in the hosts ipc namespace", name)
			}
		case name == "kernel.domainname":
			if hc.UTSMode.IsHost() {
				return invalid("sysctl %q is not allowed in the hosts uts namespace", name)
			}
		default:
			return invalid("sysctl %q is not in a separate kernel namespace", name)
		}
	}
	return nil
}
