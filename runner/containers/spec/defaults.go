package spec

import (
	"github.com/moby/moby/api/types/container"
)

// fillDefaults sets what a container's configuration leaves open, as inspect
// then shows it.
func fillDefaults(h Host, hc *container.HostConfig) {
	if hc.Memory > 0 && hc.MemorySwap == 0 {
		hc.MemorySwap = 2 * hc.Memory
	}
	if hc.CPUShares > 0 {
		hc.CPUShares = min(max(hc.CPUShares, minCPUShares), maxCPUShares)
	}
	hc.ShmSize = shmSize(hc)
	if hc.IpcMode.IsEmpty() {
		hc.IpcMode = container.IPCModePrivate
	}
	if hc.CgroupnsMode.IsEmpty() {
		hc.CgroupnsMode = container.CgroupnsModeHost
		if privateCgroupns(h, "") {
			hc.CgroupnsMode = container.CgroupnsModePrivate
		}
	}
	if hc.NetworkMode == "" || hc.NetworkMode.IsDefault() {
		hc.NetworkMode = "bridge"
	}
	if hc.OomKillDisable == nil {
		hc.OomKillDisable = new(bool)
	}
	if hc.PidsLimit != nil && *hc.PidsLimit <= 0 { // no limit, said in other words
		hc.PidsLimit = nil
	}
	if hc.Runtime == "" && len(h.Runtimes) > 0 {
		hc.Runtime = h.Runtimes[0]
	}
	if hc.Isolation.IsDefault() {
		hc.Isolation = container.IsolationEmpty
	}
	if hc.Privileged { // nothing is hidden, whatever is asked for
		hc.MaskedPaths, hc.ReadonlyPaths = nil, nil
	}
	hc.MaskedPaths, hc.ReadonlyPaths = MaskedPaths(h, hc), ReadonlyPaths(hc)
	for i := range hc.Devices {
		d := &hc.Devices[i]
		if d.PathInContainer == "" {
			d.PathInContainer = d.PathOnHost
		}
		if d.CgroupPermissions == "" {
			d.CgroupPermissions = "rwm"
		}
	}
}

// The shares of a CPU that the kernel knows.
const (
	minCPUShares = 2
	maxCPUShares = 262144
)

// privateCgroupns says whether a container sees its own cgroups as the root: by
// default with the unified hierarchy only, where alone they are delegated.
func privateCgroupns(h Host, mode container.CgroupnsMode) bool {
	return h.CgroupNamespaces && (mode.IsPrivate() || mode.IsEmpty() && h.CgroupV2)
}
