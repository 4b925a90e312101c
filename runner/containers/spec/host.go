package spec

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// Host is what there is to know of the machine that containers run on.
type Host struct {
	CgroupV2 bool   // the unified hierarchy, and no other
	Kernel   string // release: 6.1.0-13-amd64
	Seccomp  bool
	AppArmor bool     // the kernel has it and it is on
	Caps     []string // that a container can have: CAP_CHOWN, …
	CPUs     int      // that can be used
	CPUSet   string   // the numbers of CPUs that cpusets may name: 0-3
	MemSet   string   // the same of memory nodes
	MemTotal int64    // bytes

	// Cgroup is which limits can be set.
	Cgroup CgroupFeatures

	CgroupNamespaces  bool
	IPv4Forwarding    bool
	PingGroupRange    bool  // there is net.ipv4.ping_group_range
	UnprivilegedPorts bool  // there is net.ipv4.ip_unprivileged_port_start
	ThermalThrottle   []int // CPUs whose files of that name are to be masked
	RecursiveReadOnly bool  // mount_setattr(2): since Linux 5.12

	// Remap says that containers get user namespaces of their own, unless they ask
	// for the host's. DetectHost does not set it.
	Remap bool

	// Runtimes are the names of OCI runtimes that a container may ask for, the
	// default first. DetectHost does not set them.
	Runtimes []string
}

// CgroupFeatures says which limits the cgroups of a machine know.
type CgroupFeatures struct {
	Memory, Swap, Reservation, Swappiness, OOMKillDisable bool
	CPUShares, CPUQuota, CPURealtime, CPUSet              bool
	BlkioWeight, BlkioWeightDevice                        bool
	ReadBps, WriteBps, ReadIOps, WriteIOps                bool
	Pids                                                  bool
}

// cgroupRoot is where every distribution mounts cgroups.
const cgroupRoot = "/sys/fs/cgroup"

// DetectHost looks at the machine that the process runs on.
func DetectHost() (Host, error) {
	var h Host
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return h, fmt.Errorf("cgroups: %w", err)
	}
	h.CgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return h, err
	}
	h.Kernel = unix.ByteSliceToString(uts.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return h, err
	}
	h.MemTotal = int64(info.Totalram) * int64(info.Unit)
	var err error
	if h.Caps, err = currentCaps(); err != nil {
		return h, err
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return h, err
	}
	h.CPUs = cpus.Count()
	_, err = unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	h.Seccomp = err == nil
	h.AppArmor = strings.HasPrefix(line("/sys/module/apparmor/parameters/enabled"), "Y")
	h.CgroupNamespaces = exists("/proc/self/ns/cgroup")
	h.IPv4Forwarding = line("/proc/sys/net/ipv4/ip_forward") == "1"
	h.PingGroupRange = exists("/proc/sys/net/ipv4/ping_group_range")
	h.UnprivilegedPorts = exists("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	h.RecursiveReadOnly = unix.MountSetattr(-1, "", 0, nil) != unix.ENOSYS
	for cpu := range rangeSet(line("/sys/devices/system/cpu/possible")) {
		if exists(throttlePath(cpu)) {
			h.ThermalThrottle = append(h.ThermalThrottle, cpu)
		}
	}
	slices.Sort(h.ThermalThrottle)
	if h.CgroupV2 {
		h.detectV2()
	} else {
		h.detectV1()
	}
	return h, nil
}

// currentCaps lists the capabilities that this process can hand on.
func currentCaps() ([]string, error) {
	caps, err := capability.NewPid2(0)
	if err != nil {
		return nil, err
	}
	if err := caps.Load(); err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
	}
	var names []string
	for _, c := range capability.ListKnown() {
		if caps.Get(capability.BOUNDING, c) && caps.Get(capability.PERMITTED, c) {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return names, nil
}

func (h *Host) detectV1() {
	dir := func(controller string) func(string) bool {
		return func(file string) bool { return exists(filepath.Join(cgroupRoot, controller, file)) }
	}
	memory, cpu, cpuset, blkio := dir("memory"), dir("cpu"), dir("cpuset"), dir("blkio")
	h.Cgroup = CgroupFeatures{
		Memory:         memory("memory.limit_in_bytes"),
		Swap:           memory("memory.memsw.limit_in_bytes"),
		Reservation:    memory("memory.soft_limit_in_bytes"),
		Swappiness:     memory("memory.swappiness"),
		OOMKillDisable: memory("memory.oom_control"),
		CPUShares:      cpu("cpu.shares"),
		CPUQuota:       cpu("cpu.cfs_quota_us"),
		CPURealtime:    cpu("cpu.rt_runtime_us"),
		CPUSet:         cpuset("cpuset.cpus"),
		// Both are also there under the name of the scheduler.
		BlkioWeight:       anywhere("blkio/blkio.weight", "blkio/blkio.bfq.weight"),
		BlkioWeightDevice: anywhere("blkio/blkio.weight_device", "blkio/blkio.bfq.weight_device"),
		ReadBps:           blkio("blkio.throttle.read_bps_device"),
		WriteBps:          blkio("blkio.throttle.write_bps_device"),
		ReadIOps:          blkio("blkio.throttle.read_iops_device"),
		WriteIOps:         blkio("blkio.throttle.write_iops_device"),
		// The root group has no limit, so its file is not the one to look for.
		Pids: exists(filepath.Join(cgroupRoot, "pids", "cgroup.procs")),
	}
	h.CPUSet, h.MemSet = line(cgroupRoot+"/cpuset/cpuset.cpus"), line(cgroupRoot+"/cpuset/cpuset.mems")
}

func (h *Host) detectV2() {
	controllers := strings.Fields(line(filepath.Join(cgroupRoot, "cgroup.controllers")))
	has := func(name string) bool { return slices.Contains(controllers, name) }
	memory, cpu, io := has("memory"), has("cpu"), has("io")
	// No scheduler of the kernel may have weights.
	weights := io && (anywhere("io.weight", "io.bfq.weight") || !anywhere("io.max"))
	h.Cgroup = CgroupFeatures{
		Memory: memory, Swap: memory && exists("/proc/swaps"), Reservation: memory,
		CPUShares: cpu, CPUQuota: cpu, CPUSet: has("cpuset"),
		BlkioWeight: weights, BlkioWeightDevice: weights,
		ReadBps: io, WriteBps: io, ReadIOps: io, WriteIOps: io,
		Pids: has("pids"),
	}
	h.CPUSet, h.MemSet = line(cgroupRoot+"/cpuset.cpus.effective"), line(cgroupRoot+"/cpuset.mems.effective")
}

func throttlePath(cpu int) string {
	return fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", cpu)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// anywhere says whether one of the files, by their paths in the hierarchies, is in a
// root cgroup or in one below it: some are only there.
func anywhere(files ...string) bool {
	for _, file := range files {
		dir, name := filepath.Split(filepath.Join(cgroupRoot, file))
		below, _ := filepath.Glob(filepath.Join(dir, "*", name))
		if len(below) > 0 || exists(filepath.Join(dir, name)) {
			return true
		}
	}
	return false
}

// line returns the first line of a file, or "" if there is none.
func line(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan()
	return strings.TrimSpace(s.Text())
}

// maxSet is the greatest number in a set of CPUs or memory nodes: the kernel's
// own limit is 8192.
const maxSet = 8191

// rangeSet reads a set such as 0-3,7. It is nil if s is none.
func rangeSet(s string) map[int]bool {
	set := map[int]bool{}
	if s == "" {
		return set
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(low)
		last := first
		if err == nil && isRange {
			last, err = strconv.Atoi(high)
		}
		if err != nil || first < 0 || last < first || last > maxSet {
			return nil
		}
		for n := first; n <= last; n++ {
			set[n] = true
		}
	}
	return set
}
