package stats

import (
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/mountinfo"
)

const cgroupRoot = "/sys/fs/cgroup"

// source is one file of every container's cgroup, and what reads it.
type source struct {
	mount string // of its hierarchy
	name  string
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
	add := func(controller, name string, parse func([]byte, *container.StatsResponse)) {
		if mount := mounts[controller]; mount != "" {
			found = append(found, source{mount, name, parse})
		}
	}
	// What all of it is the kernel counts exactly, and by ticks whose it is.
	add("cpuacct", "cpuacct.usage_percpu", parseUsagePercpu)
	add("cpuacct", "cpuacct.usage_all", parseUsageAll)
	add("cpu", "cpu.stat", parseCPUStat)
	add("memory", "memory.usage_in_bytes", func(b []byte, s *container.StatsResponse) { s.MemoryStats.Usage = number(b) })
	add("memory", "memory.max_usage_in_bytes", func(b []byte, s *container.StatsResponse) { s.MemoryStats.MaxUsage = number(b) })
	add("memory", "memory.failcnt", func(b []byte, s *container.StatsResponse) { s.MemoryStats.Failcnt = number(b) })
	add("memory", "memory.stat", parseMemoryStat)
	add("pids", "pids.current", func(b []byte, s *container.StatsResponse) { s.PidsStats.Current = number(b) })
	add("pids", "pids.max", func(b []byte, s *container.StatsResponse) { s.PidsStats.Limit = number(b) })
	add("blkio", "blkio.throttle.io_service_bytes_recursive", func(b []byte, s *container.StatsResponse) {
		s.BlkioStats.IoServiceBytesRecursive = parseBlkio(b)
	})
	add("blkio", "blkio.throttle.io_serviced_recursive", func(b []byte, s *container.StatsResponse) {
		s.BlkioStats.IoServicedRecursive = parseBlkio(b)
	})
	return found
}

func version2(mount string) []source {
	return []source{
		{mount, "cpu.stat", parseCPUStat},
		{mount, "memory.current", func(b []byte, s *container.StatsResponse) { s.MemoryStats.Usage = number(b) }},
		{mount, "memory.max", func(b []byte, s *container.StatsResponse) { s.MemoryStats.Limit = number(b) }},
		{mount, "memory.stat", parseMemoryStat},
		{mount, "memory.events", func(b []byte, s *container.StatsResponse) {
			eachKey(b, func(key []byte, value uint64) {
				if string(key) == "oom" {
					s.MemoryStats.Failcnt = value
				}
			})
		}},
		{mount, "pids.current", func(b []byte, s *container.StatsResponse) { s.PidsStats.Current = number(b) }},
		{mount, "pids.max", func(b []byte, s *container.StatsResponse) { s.PidsStats.Limit = number(b) }},
		{mount, "io.stat", parseIOStat},
	}
}
