package spec

import (
	"fmt"
	"maps"
	"path"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// ociVersion is the version of the runtime specification that is spoken: what is
// used of it has been there since, and every runtime in use knows it.
const ociVersion = "1.0.2"

// CgroupsPath is the place of a container's cgroups: below base, such as
// /berth-1a2b3c, or the parent that it asks for by --cgroup-parent.
func CgroupsPath(base string, c *runner.Container) string {
	if c.HostConfig.CgroupParent != "" {
		base = c.HostConfig.CgroupParent
	}
	return path.Join("/", base, c.ID)
}

// Build returns the specification of a container that Validate has accepted. The
// path of its root is left open.
//
// Its errors are about what cannot be known at create: a user that the image
// does not have, a device that is gone, a mount that is not shared.
func Build(in Input) (*specs.Spec, error) {
	c := in.Container
	security, err := parseSecurity(c.HostConfig.SecurityOpt)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:     ociVersion,
		Root:        &specs.Root{Readonly: c.HostConfig.ReadonlyRootfs},
		Annotations: maps.Clone(c.HostConfig.Annotations),
		Linux:       &specs.Linux{CgroupsPath: in.CgroupsPath, Sysctl: sysctls(in)},
	}
	if !c.HostConfig.UTSMode.IsHost() {
		s.Hostname = c.Config.Hostname
	}
	if s.Process, err = process(in, security); err != nil {
		return nil, err
	}
	if s.Linux.Namespaces, err = namespaces(in); err != nil {
		return nil, err
	}
	if s.Linux.Seccomp, err = security.seccompProfile(in.Host, c.HostConfig.Privileged, s); err != nil {
		return nil, err
	}
	if s.Linux.Resources, err = resources(in); err != nil {
		return nil, err
	}
	if s.Linux.Devices, s.Linux.Resources.Devices, err = devices(in); err != nil {
		return nil, err
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = MaskedPaths(in.Host, c.HostConfig), ReadonlyPaths(c.HostConfig)
	if s.Mounts, s.Linux.RootfsPropagation, err = mounts(in, security); err != nil {
		return nil, err
	}
	userNamespace(in, s)
	return s, nil
}

// MaskedPaths lists what a container cannot see.
func MaskedPaths(h Host, hc *container.HostConfig) []string {
	if hc.MaskedPaths != nil || hc.Privileged {
		return hc.MaskedPaths
	}
	return defaultMasked(h)
}

// ReadonlyPaths lists what a container can only read.
func ReadonlyPaths(hc *container.HostConfig) []string {
	if hc.ReadonlyPaths != nil || hc.Privileged {
		return hc.ReadonlyPaths
	}
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func defaultMasked(h Host) []string {
	paths := []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	for _, cpu := range h.ThermalThrottle {
		paths = append(paths, throttlePath(cpu))
	}
	return paths
}

// pingGroups is the kernel parameter of whose groups may ping.
const pingGroups = "net.ipv4.ping_group_range"

// sysctls are the kernel parameters of a container's namespaces.
func sysctls(in Input) map[string]string {
	c := in.Container
	set := map[string]string{}
	if c.HostConfig.NetworkMode.IsPrivate() {
		if in.Host.PingGroupRange { // ping without CAP_NET_RAW
			set[pingGroups] = fmt.Sprintf("0 %d", 1<<31-1)
		}
		if in.Host.UnprivilegedPorts { // ports below 1024 without CAP_NET_BIND_SERVICE
			set["net.ipv4.ip_unprivileged_port_start"] = "0"
		}
	}
	if c.Config.Domainname != "" && !c.HostConfig.UTSMode.IsHost() {
		set["kernel.domainname"] = c.Config.Domainname
	}
	maps.Copy(set, c.HostConfig.Sysctls)
	return set
}
