package shim

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner/containers/spec"
)

// limits are asked for as by the API, and what the kernel's files then say, by
// their paths below each version's mount point with "ID" for the cgroup. What a
// version lacks is warned of, with these words.
type limits struct {
	asked    container.Resources
	v1, v2   map[string]string
	warnedV2 string
}

// lives are what containers are created with, and then updated to.
func lives(disk, number string) map[string][]limits {
	throttle := func(rate uint64) []*blkiodev.ThrottleDevice {
		return []*blkiodev.ThrottleDevice{{Path: disk, Rate: rate}}
	}
	memory := func(limit, swap, soft int64) limits {
		return limits{
			container.Resources{Memory: limit, MemorySwap: swap, MemoryReservation: soft},
			map[string]string{"memory/ID/memory.limit_in_bytes": text(limit), "memory/ID/memory.memsw.limit_in_bytes": text(swap), "memory/ID/memory.soft_limit_in_bytes": text(soft)},
			map[string]string{"ID/memory.max": text(limit), "ID/memory.swap.max": text(swap - limit), "ID/memory.low": text(soft)},
			"",
		}
	}
	pids := func(limit int64, says string) limits {
		return limits{container.Resources{PidsLimit: &limit}, map[string]string{"pids/ID/pids.max": says}, map[string]string{"ID/pids.max": says}, ""}
	}
	cpu := func(r container.Resources, quota, period string) limits {
		return limits{r, map[string]string{"cpu/ID/cpu.cfs_quota_us": quota, "cpu/ID/cpu.cfs_period_us": period}, map[string]string{"ID/cpu.max": quota + " " + period}, ""}
	}
	shares := func(n int64, weight string) limits {
		return limits{container.Resources{CPUShares: n}, map[string]string{"cpu/ID/cpu.shares": text(n)}, map[string]string{"ID/cpu.weight": weight}, ""}
	}
	cpuset := func(cpus string) limits {
		return limits{
			container.Resources{CpusetCpus: cpus, CpusetMems: "0"},
			map[string]string{"cpuset/ID/cpuset.cpus": cpus, "cpuset/ID/cpuset.mems": "0"},
			nil, "Your kernel does not support cpuset",
		}
	}
	weight := func(n uint16) limits {
		return limits{container.Resources{BlkioWeight: n}, map[string]string{"blkio/ID/blkio.bfq.weight": text(int64(n))}, nil, "Your kernel does not support Block I/O weight"}
	}
	return map[string][]limits{
		// More than before, less, and none but the total.
		"memory":   {memory(64<<20, 96<<20, 32<<20), memory(256<<20, 512<<20, 64<<20), memory(48<<20, 48<<20, 16<<20)},
		"pids":     {pids(20, "20"), pids(40, "40"), pids(0, "max")},
		"cpus":     {cpu(container.Resources{NanoCPUs: 5e8}, "50000", "100000"), cpu(container.Resources{NanoCPUs: 25e7}, "25000", "100000")},
		"quota":    {cpu(container.Resources{CPUQuota: 20000, CPUPeriod: 40000}, "20000", "40000"), cpu(container.Resources{CPUQuota: 60000, CPUPeriod: 80000}, "60000", "80000")},
		"shares":   {shares(512, "20"), shares(2048, "79")},
		"cpuset":   {cpuset("0"), cpuset("0-1")},
		"weight":   {weight(300), weight(700)},
		"swappy":   {{container.Resources{MemorySwappiness: new(int64(30))}, map[string]string{"memory/ID/memory.swappiness": "30"}, nil, "Your kernel does not support memory swappiness"}},
		"immortal": {{container.Resources{OomKillDisable: new(true), Memory: 64 << 20, MemorySwap: -1}, map[string]string{"memory/ID/memory.oom_control": "oom_kill_disable 1"}, nil, "Your kernel does not support OomKillDisable. OomKillDisable discarded."}},
		"disk": {{
			container.Resources{BlkioDeviceReadBps: throttle(1 << 20), BlkioDeviceWriteBps: throttle(2 << 20), BlkioDeviceReadIOps: throttle(100), BlkioDeviceWriteIOps: throttle(200)},
			map[string]string{
				"blkio/ID/blkio.throttle.read_bps_device": number + " 1048576", "blkio/ID/blkio.throttle.write_bps_device": number + " 2097152",
				"blkio/ID/blkio.throttle.read_iops_device": number + " 100", "blkio/ID/blkio.throttle.write_iops_device": number + " 200",
			},
			map[string]string{"ID/io.max": number + " rbps=1048576 wbps=2097152 riops=100 wiops=200"},
			"",
		}, { // one is lifted, and one stays as it is
			container.Resources{BlkioDeviceReadBps: throttle(0), BlkioDeviceWriteBps: throttle(3 << 20), BlkioDeviceReadIOps: throttle(0)},
			map[string]string{
				"blkio/ID/blkio.throttle.read_bps_device": "", "blkio/ID/blkio.throttle.write_bps_device": number + " 3145728",
				"blkio/ID/blkio.throttle.read_iops_device": "", "blkio/ID/blkio.throttle.write_iops_device": number + " 200",
			},
			map[string]string{"ID/io.max": number + " rbps=max wbps=3145728 riops=max wiops=200"},
			"",
		}},
	}
}

// TestLimits gives containers limits, and others while they run, and reads what
// the kernel has understood.
func TestLimits(t *testing.T) {
	disk, number := someDisk(t)
	machine, err := spec.DetectHost()
	if err != nil {
		t.Fatal(err)
	}
	runtimes(t, func(t *testing.T, h *host) {
		for name, life := range lives(disk, number) {
			var req CreateRequest
			for i, l := range life {
				warnings, err := spec.ValidateResources(machine, &l.asked, i > 0)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				warned := strings.Join(warnings, "\n")
				if want := machine.CgroupV2 && l.warnedV2 != ""; !want && warned != "" || want && !strings.HasPrefix(warned, l.warnedV2) {
					t.Errorf("%s: warned %q", name, warned)
				}
				asked, err := spec.Resources(l.asked, spec.FindDevices)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					req = h.request("sleep", "1000")
					req.Spec.Linux.Resources = asked
					h.create(req)
					h.start(req.ID)
				} else if err := h.Update(t.Context(), req.ID, asked); err != nil {
					t.Errorf("%s, update %d: %v", name, i, err)
				}
				h.says(name, req.ID, l)
			}
		}
	})
}

// says compares the kernel's files with limits.
func (h *host) says(name, id string, l limits) {
	h.t.Helper()
	want := l.v1
	if h.cgroups.unified {
		want = l.v2
	}
	for file, value := range want {
		path := filepath.Join(cgroupRoot, strings.Replace(file, "ID", h.cgroup+"/"+id, 1))
		got, err := os.ReadFile(path)
		if first, _, _ := strings.Cut(string(got), "\n"); err != nil || first != value {
			h.t.Errorf("%s: %s is %q, %v: want %q", name, file, got, err, value)
		}
	}
}

func text(n int64) string { return strconv.FormatInt(n, 10) }

// someDisk finds a disk of the machine, and its number.
func someDisk(t *testing.T) (path, number string) {
	t.Helper()
	numbers, err := filepath.Glob("/sys/block/*/dev")
	for _, file := range numbers {
		path = "/dev/" + filepath.Base(filepath.Dir(file))
		text, rerr := os.ReadFile(file)
		size, serr := os.ReadFile(filepath.Join(filepath.Dir(file), "size"))
		_, derr := os.Stat(path)
		if rerr == nil && serr == nil && derr == nil && strings.TrimSpace(string(size)) != "0" {
			return path, strings.TrimSpace(string(text))
		}
	}
	t.Fatalf("this machine has no disk: %v", err)
	return "", ""
}

// TestLimitsHold has containers take more than their limits.
func TestLimitsHold(t *testing.T) {
	disk, _ := someDisk(t)
	runtimes(t, func(t *testing.T, h *host) {
		bound := func(r container.Resources, script string) (id, log string, took time.Duration) {
			req := h.request("sh", "-c", script)
			var err error
			if req.Spec.Linux.Resources, err = spec.Resources(r, spec.FindDevices); err != nil {
				t.Fatal(err)
			}
			if req.Spec.Linux.Devices, err = spec.FindDevices(disk); err != nil {
				t.Fatal(err)
			}
			req.Spec.Linux.Devices[0].Path = "/dev/disk"
			req.Spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
			h.create(req)
			begun := time.Now()
			h.start(req.ID)
			e := h.exit()
			took = e.At.Sub(begun)
			said, err := os.ReadFile(req.LogPath)
			if err != nil {
				t.Fatal(err)
			}
			return req.ID, string(said), took
		}
		five := int64(5)
		if _, log, _ := bound(container.Resources{PidsLimit: &five}, "for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait; echo all"); !strings.Contains(log, "can't fork") {
			t.Errorf("more processes than the limit: %q", log)
		}
		// A disk may be read by nobody on a host that is a container itself, as one of
		// version 1 often is; there the acceptance test measures it with files.
		if h.cgroups.unified {
			// Two megabytes at one in a second, of which the kernel may grant a part at once.
			limit := []*blkiodev.ThrottleDevice{{Path: disk, Rate: 1 << 20}}
			_, log, took := bound(container.Resources{BlkioDeviceReadBps: limit}, "dd if=/dev/disk of=/dev/null bs=64k count=32 iflag=direct")
			if took < 1500*time.Millisecond || !strings.Contains(log, "32+0 records in") {
				t.Errorf("2 MB at 1 MB in a second took %v: %q", took, log)
			}
		}
		id, _, _ := bound(container.Resources{NanoCPUs: 1e8}, "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done")
		stat := filepath.Join(cgroupRoot, "cpu", h.cgroup, id, "cpu.stat")
		if h.cgroups.unified {
			stat = filepath.Join(cgroupRoot, h.cgroup, id, "cpu.stat")
		}
		if readKey(stat, "nr_throttled") == 0 {
			t.Errorf("a loop is not held up at a tenth of a processor: %s", stat)
		}
	})
}
