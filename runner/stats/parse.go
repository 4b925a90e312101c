package stats

import (
	"bytes"
	"slices"

	"github.com/moby/moby/api/types/container"
)

// What is parsed here the kernel has written, but not all of it: the names of
// interfaces are the container's own. A line that is not understood is skipped. What
// was parsed before is replaced, and what it points to stays as it is.

// lines calls f with each line of a text, without its end.
func lines(text []byte, f func(line []byte)) {
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		f(line)
		text = rest
	}
}

// field cuts the first word off a line.
func field(line []byte) (word, rest []byte) {
	for len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		line = line[1:]
	}
	for i, c := range line {
		if c == ' ' || c == '\t' {
			return line[:i], line[i+1:]
		}
	}
	return line, nil
}

// number is the number at the beginning of a text, or 0 if there is none: "max"
// stands where there is no limit.
func number(text []byte) (n uint64) {
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}

// eachKey calls f with the key and the number of each line of both.
func eachKey(text []byte, f func(key []byte, value uint64)) {
	lines(text, func(line []byte) {
		key, rest := field(line)
		if len(key) > 0 && len(rest) > 0 {
			f(key, number(rest))
		}
	})
}

// parseUsagePercpu reads cpuacct.usage_percpu of version 1: nanoseconds for each
// processor.
func parseUsagePercpu(text []byte, s *container.StatsResponse) {
	u := &s.CPUStats.CPUUsage
	u.TotalUsage = 0
	text = bytes.TrimSpace(text)
	u.PercpuUsage = make([]uint64, 0, bytes.Count(text, []byte{' '})+1)
	for one, rest := field(text); len(one) > 0; one, rest = field(rest) {
		n := number(one)
		u.TotalUsage += n
		u.PercpuUsage = append(u.PercpuUsage, n)
	}
}

// parseUsageAll reads cpuacct.usage_all of version 1: for each processor the
// nanoseconds for users and for the kernel, as far as ticks have met them.
func parseUsageAll(text []byte, s *container.StatsResponse) {
	u := &s.CPUStats.CPUUsage
	u.UsageInUsermode, u.UsageInKernelmode = 0, 0
	lines(text, func(line []byte) {
		cpu, rest := field(line)
		if len(cpu) == 0 || cpu[0] < '0' || cpu[0] > '9' {
			return // the titles
		}
		user, rest := field(rest)
		system, _ := field(rest)
		u.UsageInUsermode += number(user)
		u.UsageInKernelmode += number(system)
	})
}

// parseCPUStat reads cpu.stat of either version.
func parseCPUStat(text []byte, s *container.StatsResponse) {
	const micro = 1000 // nanoseconds
	c := &s.CPUStats
	eachKey(text, func(key []byte, value uint64) {
		switch string(key) {
		case "usage_usec":
			c.CPUUsage.TotalUsage = value * micro
		case "user_usec":
			c.CPUUsage.UsageInUsermode = value * micro
		case "system_usec":
			c.CPUUsage.UsageInKernelmode = value * micro
		case "nr_periods":
			c.ThrottlingData.Periods = value
		case "nr_throttled":
			c.ThrottlingData.ThrottledPeriods = value
		case "throttled_time":
			c.ThrottlingData.ThrottledTime = value
		case "throttled_usec":
			c.ThrottlingData.ThrottledTime = value * micro
		}
	})
}

// memoryKeys are what is told of memory.stat, sorted: what Docker tells of it in
// version 1 and 2, and swap.
var memoryKeys = []string{
	"active_anon", "active_file", "anon", "anon_thp", "cache", "dirty", "file", "file_dirty", "file_mapped",
	"file_writeback", "hierarchical_memory_limit", "hierarchical_memsw_limit", "inactive_anon", "inactive_file",
	"kernel_stack", "mapped_file", "pgactivate", "pgdeactivate", "pgfault", "pglazyfree", "pglazyfreed", "pgmajfault",
	"pgpgin", "pgpgout", "pgrefill", "pgscan", "pgsteal", "rss", "rss_huge", "shmem", "slab", "slab_reclaimable",
	"slab_unreclaimable", "sock", "swap", "thp_collapse_alloc", "thp_fault_alloc", "total_active_anon",
	"total_active_file", "total_cache", "total_dirty", "total_inactive_anon", "total_inactive_file",
	"total_mapped_file", "total_pgfault", "total_pgmajfault", "total_pgpgin", "total_pgpgout", "total_rss",
	"total_rss_huge", "total_swap", "total_unevictable", "total_writeback", "unevictable", "workingset_activate",
	"workingset_nodereclaim", "workingset_refault", "writeback",
}

// parseMemoryStat reads memory.stat of either version. In version 1 it has the
// limit, too: the lowest of the cgroup and those above it.
func parseMemoryStat(text []byte, s *container.StatsResponse) {
	m := make(map[string]uint64, bytes.Count(text, []byte{'\n'}))
	eachKey(text, func(key []byte, value uint64) {
		i, found := slices.BinarySearchFunc(memoryKeys, key, compare)
		if found {
			m[memoryKeys[i]] = value
		}
	})
	s.MemoryStats.Stats = m
	if limit, ok := m["hierarchical_memory_limit"]; ok {
		s.MemoryStats.Limit = limit
	}
}

// compare is bytes.Compare that needs no copy of the string.
func compare(a string, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// device reads MAJOR:MINOR.
func device(word []byte) (major, minor uint64, ok bool) {
	a, b, ok := bytes.Cut(word, []byte{':'})
	return number(a), number(b), ok
}

// parseBlkio reads a file of the controller blkio of version 1: lines of a
// device, what is counted and how many.
func parseBlkio(text []byte) []container.BlkioStatEntry {
	list := []container.BlkioStatEntry{}
	lines(text, func(line []byte) {
		dev, rest := field(line)
		major, minor, ok := device(dev)
		op, rest := field(rest)
		if ok && len(op) > 0 && len(rest) > 0 {
			list = append(list, container.BlkioStatEntry{Major: major, Minor: minor, Op: operation(op), Value: number(rest)})
		}
	})
	return list
}

// operation is the word in lower case, as Docker has it.
func operation(word []byte) string {
	switch string(word) {
	case "Read":
		return "read"
	case "Write":
		return "write"
	case "Sync":
		return "sync"
	case "Async":
		return "async"
	case "Discard":
		return "discard"
	case "Total":
		return "total"
	default:
		return string(bytes.ToLower(word))
	}
}

// parseIOStat reads io.stat of version 2: lines of a device and KEY=VALUE.
func parseIOStat(text []byte, s *container.StatsResponse) {
	size, count := []container.BlkioStatEntry{}, []container.BlkioStatEntry{}
	lines(text, func(line []byte) {
		dev, rest := field(line)
		major, minor, ok := device(dev)
		for ok && len(rest) > 0 {
			var pair []byte
			pair, rest = field(rest)
			key, value, _ := bytes.Cut(pair, []byte{'='})
			e := container.BlkioStatEntry{Major: major, Minor: minor, Op: "read", Value: number(value)}
			switch string(key) {
			case "rbytes":
				size = append(size, e)
			case "rios":
				count = append(count, e)
			case "wbytes":
				e.Op = "write"
				size = append(size, e)
			case "wios":
				e.Op = "write"
				count = append(count, e)
			}
		}
	})
	s.BlkioStats.IoServiceBytesRecursive, s.BlkioStats.IoServicedRecursive = size, count
}

// maxInterfaces is how many interfaces of a container are told of: it may make as
// many as it likes, if it is allowed to.
const maxInterfaces = 128

// parseNetDev reads /proc/PID/net/dev: the interfaces of a network namespace,
// without those that the kernel puts into each.
func parseNetDev(text []byte, s *container.StatsResponse) {
	s.Networks = nil
	lines(text, func(line []byte) {
		name, rest, ok := bytes.Cut(bytes.TrimLeft(line, " "), []byte{':'})
		if !ok || builtin(name) || len(s.Networks) == maxInterfaces {
			return
		}
		var n [16]uint64
		for i := range n {
			var word []byte
			if word, rest = field(rest); len(word) == 0 {
				return
			}
			n[i] = number(word)
		}
		if s.Networks == nil {
			s.Networks = map[string]container.NetworkStats{}
		}
		s.Networks[string(name)] = container.NetworkStats{
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		}
	})
}

// builtin says whether the kernel puts an interface into every network namespace:
// the loopback, and one of each kind of tunnel that is loaded.
func builtin(name []byte) bool {
	switch string(name) {
	case "lo", "tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0":
		return true
	}
	return false
}

// parseStat reads the beginning of /proc/stat: the nanoseconds that all
// processors have had together, idle or not, and how many there are.
func parseStat(text []byte) (usage uint64, cpus uint32) {
	const (
		tick   = 10_000_000 // nanoseconds: what users are told is in hundredths of a second on every architecture
		counts = 7          // user, nice, system, idle, iowait, irq, softirq: the rest is contained in them, or is not ours
	)
	lines(text, func(line []byte) {
		name, rest := field(line)
		switch {
		case string(name) == "cpu":
			for range counts {
				var word []byte
				word, rest = field(rest)
				usage += number(word) * tick
			}
		case bytes.HasPrefix(name, []byte("cpu")):
			cpus++
		}
	})
	return usage, cpus
}
