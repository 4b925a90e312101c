package stats

import (
	"reflect"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/container"
)

func TestParse(t *testing.T) {
	type S = container.StatsResponse
	entry := func(op string, value uint64) container.BlkioStatEntry {
		return container.BlkioStatEntry{Major: 254, Minor: 16, Op: op, Value: value}
	}
	for _, tt := range []struct {
		what  string
		parse func([]byte, *S)
		text  string
		want  S
	}{
		{"version 1, processors", parseUsagePercpu, "3400 56 \n", S{CPUStats: container.CPUStats{
			CPUUsage: container.CPUUsage{TotalUsage: 3456, PercpuUsage: []uint64{3400, 56}},
		}}},
		{"version 1, users and kernel", parseUsageAll, "cpu user system\n0 3000 400\n1 50 6\n", S{CPUStats: container.CPUStats{
			CPUUsage: container.CPUUsage{UsageInUsermode: 3050, UsageInKernelmode: 406},
		}}},
		{"version 1, throttling", parseCPUStat, "nr_periods 7\nnr_throttled 3\nthrottled_time 999\n", S{CPUStats: container.CPUStats{
			ThrottlingData: container.ThrottlingData{Periods: 7, ThrottledPeriods: 3, ThrottledTime: 999},
		}}},
		{"version 2, processors", parseCPUStat, "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnice_usec 0\nnr_periods 1\nnr_throttled 1\nthrottled_usec 2\n", S{CPUStats: container.CPUStats{
			CPUUsage:       container.CPUUsage{TotalUsage: 9000, UsageInUsermode: 5000, UsageInKernelmode: 4000},
			ThrottlingData: container.ThrottlingData{Periods: 1, ThrottledPeriods: 1, ThrottledTime: 2000},
		}}},
		{"version 1, memory", parseMemoryStat, "cache 1\nunheard_of 5\nhierarchical_memory_limit 4096\ntotal_inactive_file 2\n", S{MemoryStats: container.MemoryStats{
			Limit: 4096, Stats: map[string]uint64{"cache": 1, "hierarchical_memory_limit": 4096, "total_inactive_file": 2},
		}}},
		{"version 2, disks", parseIOStat, "254:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:16\n", S{BlkioStats: container.BlkioStats{
			IoServiceBytesRecursive: []container.BlkioStatEntry{entry("read", 1), entry("write", 2)},
			IoServicedRecursive:     []container.BlkioStatEntry{entry("read", 3), entry("write", 4)},
		}}},
		{"interfaces", parseNetDev, "Inter-|   Receive   |  Transmit\n face |bytes packets errs\n    lo:  1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n" +
			"  eth0:10 20 30 40 5 6 7 8 90 100 110 120 5 6 7 8\n  half: 1 2\nsit0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n", S{Networks: map[string]container.NetworkStats{
			"eth0": {RxBytes: 10, RxPackets: 20, RxErrors: 30, RxDropped: 40, TxBytes: 90, TxPackets: 100, TxErrors: 110, TxDropped: 120},
		}}},
	} {
		var got S
		if tt.parse([]byte(tt.text), &got); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s:\n%+v, want\n%+v", tt.what, got, tt.want)
		}
	}
	got := parseBlkio([]byte("254:16 Read 4\n254:16 Write 5\n254:16 Total 9\nTotal 9\n"))
	if want := []container.BlkioStatEntry{entry("read", 4), entry("write", 5), entry("total", 9)}; !slices.Equal(got, want) {
		t.Errorf("version 1, disks: %v", got)
	}
	usage, cpus := parseStat([]byte("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1 1 1 1 1 1 1 1 1\ncpu1 1\nintr 5 cpu\n"))
	if usage != 28*10_000_000 || cpus != 2 {
		t.Errorf("/proc/stat: %d ns of %d processors", usage, cpus)
	}
}

func TestMemoryKeysAreSorted(t *testing.T) {
	if !slices.IsSorted(memoryKeys) {
		t.Error("a binary search does not find all of them")
	}
}

func TestManyInterfaces(t *testing.T) {
	var text []byte
	for i := range 4 * maxInterfaces {
		text = append(text, "if"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+": 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"...)
	}
	var s container.StatsResponse
	if parseNetDev(text, &s); len(s.Networks) != maxInterfaces {
		t.Errorf("%d interfaces are told of", len(s.Networks))
	}
}

// FuzzParse looks for a text at which a parser panics.
func FuzzParse(f *testing.F) {
	f.Add([]byte("cpu user system\n0 3000 400\n"))
	f.Add([]byte("254:16 rbytes=1 wbytes=2 rios=\n:= =\n"))
	f.Add([]byte("  eth0:10 20 30 40 5 6 7 8 90 100 110 120 5 6 7 8\n:\n"))
	f.Add([]byte("max\n18446744073709551615999\n\t \n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s container.StatsResponse
		for _, src := range append(version2(""), version1(map[string]string{"cpuacct": "/", "cpu": "/", "memory": "/", "pids": "/", "blkio": "/"})...) {
			src.parse(text, &s)
		}
		parseNetDev(text, &s)
		parseStat(text)
		if len(s.Networks) > maxInterfaces {
			t.Errorf("%d interfaces", len(s.Networks))
		}
	})
}
