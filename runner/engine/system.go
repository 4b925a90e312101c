package engine

import (
	"bufio"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/logs"
)

// runtimeNames are the OCI runtimes that a container may ask for, the default
// first.
func (e *Engine) runtimeNames() []string {
	name, _ := e.shim.Runtime()
	names := []string{name}
	for other := range e.shim.Runtimes() {
		if other != name {
			names = append(names, other)
		}
	}
	slices.Sort(names[1:])
	return names
}

// Version implements runner/api's System. What depends on the API's version the
// API fills in.
func (e *Engine) Version(context.Context) (system.VersionResponse, error) {
	name, version := e.shim.Runtime()
	v := system.VersionResponse{
		Platform:      system.PlatformInfo{Name: "Berth"},
		Version:       e.opts.Version,
		Os:            goruntime.GOOS,
		Arch:          goruntime.GOARCH,
		GoVersion:     goruntime.Version(),
		KernelVersion: e.host.Kernel,
		Components: []system.ComponentVersion{
			{Name: "Engine", Version: e.opts.Version, Details: map[string]string{
				"Os": goruntime.GOOS, "Arch": goruntime.GOARCH,
				"GoVersion": goruntime.Version(), "KernelVersion": e.host.Kernel,
			}},
			{Name: name, Version: version},
		},
	}
	return v, nil
}

// Info implements runner/api's System.
func (e *Engine) Info(ctx context.Context) (system.Info, error) {
	list, err := e.images.List(ctx, runner.ImageListOptions{}, nil)
	if err != nil {
		return system.Info{}, err
	}
	count := e.countByStatus()
	hostname, err := os.Hostname()
	if err != nil {
		return system.Info{}, err
	}
	name, _ := e.shim.Runtime()
	info := system.Info{
		ID:                 e.instance,
		Name:               hostname,
		Containers:         len(e.all()),
		ContainersRunning:  count[container.StateRunning] + count[container.StateRestarting],
		ContainersPaused:   count[container.StatePaused],
		ContainersStopped:  count[container.StateExited] + count[container.StateCreated],
		Images:             len(list),
		Driver:             "overlay2",
		DriverStatus:       [][2]string{{"Backing Filesystem", backingFS(e.opts.Data)}, {"Supports d_type", "true"}, {"Native Overlay Diff", "true"}},
		DockerRootDir:      e.opts.Data,
		SystemTime:         time.Now().Format(time.RFC3339Nano),
		NGoroutines:        goruntime.NumGoroutine(),
		NFd:                countFiles("/proc/self/fd"),
		NEventsListener:    e.events.count(),
		LoggingDriver:      e.logDriver(),
		LiveRestoreEnabled: true,
		ServerVersion:      e.opts.Version,
		InitBinary:         "docker-init",
		DefaultRuntime:     name,
		Runtimes:           map[string]system.RuntimeWithStatus{},
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{network.NetworkBridge, network.NetworkHost, "ipvlan", "macvlan", "null"},
			Log: logs.Drivers(),
		},
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig:     e.registryConfig(),
		FirewallBackend:    &system.FirewallInfo{Driver: "nftables"},
		Labels:             []string{},
		Warnings:           []string{},
	}
	for name, r := range e.shim.Runtimes() {
		info.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: r.Path, Args: r.Args}}
	}
	e.hostInfo(&info)
	e.deviceInfo(&info)
	return info, nil
}

// hostInfo fills in what is true of the host.
func (e *Engine) hostInfo(info *system.Info) {
	h := e.host
	info.KernelVersion, info.OSType, info.Architecture = h.Kernel, goruntime.GOOS, machine()
	info.OperatingSystem, info.OSVersion = osRelease()
	info.NCPU, info.MemTotal = h.CPUs, h.MemTotal
	info.CgroupDriver, info.CgroupVersion = "cgroupfs", "1"
	if h.CgroupV2 {
		info.CgroupVersion = "2"
	}
	info.MemoryLimit, info.SwapLimit, info.PidsLimit = h.Cgroup.Memory, h.Cgroup.Swap, h.Cgroup.Pids
	info.CPUCfsPeriod, info.CPUCfsQuota, info.CPUShares = h.Cgroup.CPUQuota, h.Cgroup.CPUQuota, h.Cgroup.CPUShares
	info.CPUSet, info.OomKillDisable = h.Cgroup.CPUSet, h.Cgroup.OOMKillDisable
	info.IPv4Forwarding = true // the network sets it
	if h.AppArmor {
		info.SecurityOptions = append(info.SecurityOptions, "name=apparmor")
	}
	if h.Seccomp {
		info.SecurityOptions = append(info.SecurityOptions, "name=seccomp,profile=builtin")
	}
	if h.CgroupV2 {
		info.SecurityOptions = append(info.SecurityOptions, "name=cgroupns")
	}
	if e.userns.Own() {
		info.SecurityOptions = append(info.SecurityOptions, "name=userns")
	}
	if !h.Cgroup.Swap {
		info.Warnings = append(info.Warnings, "WARNING: No swap limit support")
	}
}

func (e *Engine) registryConfig() *registry.ServiceConfig {
	cfg := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: e.opts.Registries["docker.io"].Mirrors, Secure: true, Official: true},
		},
		Mirrors: e.opts.Registries["docker.io"].Mirrors,
	}
	for host, h := range e.opts.Registries {
		if host != "docker.io" {
			cfg.IndexConfigs[host] = &registry.IndexInfo{Name: host, Mirrors: h.Mirrors, Secure: !h.PlainHTTP && !h.SkipVerify}
		}
	}
	return cfg
}

// machine is the kernel's name of the architecture: x86_64.
func machine() string {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return goruntime.GOARCH
	}
	return unix.ByteSliceToString(uts.Machine[:])
}

// osRelease reads the name and the version of the distribution.
func osRelease() (name, version string) {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux", ""
	}
	defer f.Close()
	name = "Linux"
	for scan := bufio.NewScanner(f); scan.Scan(); {
		key, value, _ := strings.Cut(scan.Text(), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "PRETTY_NAME":
			name = value
		case "VERSION_ID":
			version = value
		}
	}
	return name, version
}

// backingFS names the file system that a directory is on, as far as it is a
// common one.
func backingFS(dir string) string {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return "unknown"
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	default:
		return "unknown"
	}
}

func countFiles(dir string) int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	return len(entries)
}

func (e *Engine) reopenLog(id string) func(context.Context) error {
	return func(ctx context.Context) error { return e.shim.ReopenLog(ctx, id) }
}

// logPath is where a container's monitor writes.
func (e *Engine) logPath(id string) string { return filepath.Join(e.store.Logs(id), logs.FileName) }
