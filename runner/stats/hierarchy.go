package stats

import (
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/mountinfo"
)

const cgroupRoot = "/sys/fs/cgroup"

// pace is how often a file is read. What is read less often than each second
// cannot have changed, but by somebody's hand in the container's cgroups.
type pace int

const (
	each  pace = iota // each second
	clock             // likewise: if it has changed, a process of the container has run
	ran               // when one has, and once more, as what it began the kernel may end
	quota             // like ran of a container with a limit to processors, else like set
	limit             // like ran of a container with a limit to memory, else like set
	set               // when somebody sets the container's limits
)

// of is the pace for a container with limits.
func (p pace) of(r *container.Resources) pace {
	switch {
	case p == quota && (r == nil || r.NanoCPUs != 0 || r.CPUQuota != 0),
		p == limit && (r == nil || r.Memory != 0):
		return ran
	case p == quota, p == limit:
		return set
	default:
		return p
	}
}

// source is one file of every container's cgroup, and what reads it.
type source struct {
	mount string // of its hierarchy
	name  string
	pace  pace
	parse func(text []byte, into *container.StatsResponse)
}

// findSources finds out how the cgroups of this host are mounted, and so which
// files tell of a container.
func findSources() ([]source, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	byController := map[string]string{}
	for _, m := range mounts {
		switch {
		case m.Mountpoint == cgroupRoot && m.FSType == "cgroup2":
			return version2(cgroupRoot), nil
		case m.FSType == "cgroup" && filepath.Dir(m.Mountpoint) == cgroupRoot:
			for option := range strings.SplitSeq(m.VFSOptions, ",") {
				byController[option] = m.Mountpoint
			}
		}
	}
	return version1(byController), nil
}

func version1(mounts map[string]string) []source {
	var found []source
	add := func(controller, name string, p pace, parse func([]byte, *container.StatsResponse)) {
		if mount := mounts[controller]; mount != "" {
			found = append(found, source{mount, name, p, parse})
		}
	}
	// What all of it is the kernel counts exactly, and by ticks whose it is.
	add("cpuacct", "cpuacct.usage_percpu", clock, parseUsagePercpu)
	add("cpuacct", "cpuacct.usage_all", ran, parseUsageAll)
	add("cpu", "cpu.stat", quota, parseCPUStat)
	add("memory", "memory.usage_in_bytes", each, func(b []byte, s *container.StatsResponse) { s.MemoryStats.Usage = number(b) })
	add("memory", "memory.max_usage_in_bytes", ran, func(b []byte, s *container.StatsResponse) { s.MemoryStats.MaxUsage = number(b) })
	add("memory", "memory.failcnt", limit, func(b []byte, s *container.StatsResponse) { s.MemoryStats.Failcnt = number(b) })
	add("memory", "memory.stat", each, parseMemoryStat)
	add("pids", "pids.current", ran, func(b []byte, s *container.StatsResponse) { s.PidsStats.Current = number(b) })
	add("pids", "pids.max", set, func(b []byte, s *container.StatsResponse) { s.PidsStats.Limit = number(b) })
	add("blkio", "blkio.throttle.io_service_bytes_recursive", ran, func(b []byte, s *container.StatsResponse) {
		s.BlkioStats.IoServiceBytesRecursive = parseBlkio(b)
	})
	add("blkio", "blkio.throttle.io_serviced_recursive", ran, func(b []byte, s *container.StatsResponse) {
		s.BlkioStats.IoServicedRecursive = parseBlkio(b)
	})
	return found
}

func version2(mount string) []source {
	return []source{
		{mount, "cpu.stat", clock, parseCPUStat},
		{mount, "memory.current", each, func(b []byte, s *container.StatsResponse) { s.MemoryStats.Usage = number(b) }},
		{mount, "memory.max", set, func(b []byte, s *container.StatsResponse) { s.MemoryStats.Limit = number(b) }},
		{mount, "memory.stat", each, parseMemoryStat},
		{mount, "memory.events", ran, func(b []byte, s *container.StatsResponse) {
			eachKey(b, func(key []byte, value uint64) {
				if string(key) == "oom" {
					s.MemoryStats.Failcnt = value
				}
			})
		}},
		{mount, "pids.current", ran, func(b []byte, s *container.StatsResponse) { s.PidsStats.Current = number(b) }},
		{mount, "pids.max", set, func(b []byte, s *container.StatsResponse) { s.PidsStats.Limit = number(b) }},
		{mount, "io.stat", each, parseIOStat}, // what was written the kernel brings to the disk later
	}
}
