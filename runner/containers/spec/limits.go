package spec

import (
	"fmt"
	"slices"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

// minMemory is the least memory limit in bytes that a container can start in.
const minMemory = 6 << 20

// ValidateResources checks the limits of a container, when it is created or
// updated. What the kernel cannot do is taken out of r, with a warning.
func ValidateResources(h Host, r *container.Resources, update bool) (warnings []string, err error) {
	w := &warner{}
	for _, check := range []func(Host, *container.Resources, bool, *warner) error{
		checkMemory, checkOOMAndPids, checkCPU, checkCPUSet, checkBlockIO,
	} {
		if err := check(h, r, update, w); err != nil {
			return w.list, err
		}
	}
	return w.list, nil
}

// warner collects what is discarded.
type warner struct{ list []string }

// discard says that the kernel has no feature which is asked for.
func (w *warner) discard(asked, supported bool, warning string, discard func()) {
	if asked && !supported {
		w.list = append(w.list, warning)
		discard()
	}
}

func checkMemory(h Host, r *container.Resources, update bool, w *warner) error {
	if r.Memory != 0 && r.Memory < minMemory {
		return invalid("Minimum memory limit allowed is 6MB")
	}
	w.discard(r.Memory > 0, h.Cgroup.Memory,
		"Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
		func() { r.Memory, r.MemorySwap = 0, -1 })
	w.discard(r.Memory > 0 && r.MemorySwap != -1, h.Cgroup.Swap,
		"Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
		func() { r.MemorySwap = -1 })
	if r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory {
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	}
	if r.Memory == 0 && r.MemorySwap > 0 && !update {
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	if r.MemorySwap < -1 {
		return invalid("Invalid value: %d, the memoryswap limit is a number of bytes, or -1 for none", r.MemorySwap)
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil // the docker command's way to say nothing
	}
	w.discard(r.MemorySwappiness != nil, h.Cgroup.Swappiness,
		"Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
		func() { r.MemorySwappiness = nil })
	if r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100) {
		return invalid("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	}
	w.discard(r.MemoryReservation > 0, h.Cgroup.Reservation,
		"Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
		func() { r.MemoryReservation = 0 })
	if r.MemoryReservation != 0 && r.MemoryReservation < minMemory {
		return invalid("Minimum memory reservation allowed is 6MB")
	}
	if r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation {
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	return nil
}

func checkOOMAndPids(h Host, r *container.Resources, _ bool, w *warner) error {
	if r.OomKillDisable != nil && !h.Cgroup.OOMKillDisable {
		w.discard(*r.OomKillDisable, false, "Your kernel does not support OomKillDisable. OomKillDisable discarded.", func() {})
		r.OomKillDisable = nil
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 {
		w.list = append(w.list,
			"OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	w.discard(r.PidsLimit != nil && *r.PidsLimit > 0, h.Cgroup.Pids,
		"Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
		func() { r.PidsLimit = nil })
	return nil
}

func checkCPU(h Host, r *container.Resources, _ bool, w *warner) error {
	switch {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs > 0 && !h.Cgroup.CPUQuota:
		return invalid("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(h.CPUs)*1e9:
		return invalid("Range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", h.CPUs, h.CPUs)
	case r.CPUShares < 0:
		return invalid("invalid CPU shares: %d", r.CPUShares)
	case (r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0) && !h.Cgroup.CPURealtime:
		return invalid("kernel does not support CPU real-time scheduler")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return invalid("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	w.discard(r.CPUShares > 0, h.Cgroup.CPUShares,
		"Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.", func() { r.CPUShares = 0 })
	w.discard(r.CPUPeriod != 0 || r.CPUQuota != 0, h.Cgroup.CPUQuota,
		"Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.", func() { r.CPUPeriod, r.CPUQuota = 0, 0 })
	if r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000) {
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	}
	if r.CPUQuota > 0 && r.CPUQuota < 1000 {
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	}
	w.discard(r.CPUPercent > 0, false, "linux does not support CPU percent. Percent discarded.", func() { r.CPUPercent = 0 })
	return nil
}

func checkCPUSet(h Host, r *container.Resources, _ bool, w *warner) error {
	w.discard(r.CpusetCpus != "" || r.CpusetMems != "", h.Cgroup.CPUSet,
		"Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
		func() { r.CpusetCpus, r.CpusetMems = "", "" })
	for _, s := range []struct{ asked, available, name, things string }{
		{r.CpusetCpus, h.CPUSet, "cpus", "CPUs"}, {r.CpusetMems, h.MemSet, "mems", "memory nodes"},
	} {
		asked, available := rangeSet(s.asked), rangeSet(s.available)
		if asked == nil {
			return invalid("Invalid value %s for cpuset %s: the format is 0-3,7", s.asked, s.name)
		}
		for n := range asked {
			if !available[n] {
				return invalid("Requested %s are not available - requested %s, available: %s", s.things, s.asked, s.available)
			}
		}
	}
	return nil
}

func checkBlockIO(h Host, r *container.Resources, _ bool, w *warner) error {
	w.discard(r.BlkioWeight > 0, h.Cgroup.BlkioWeight,
		"Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.", func() { r.BlkioWeight = 0 })
	if r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return invalid("Range of blkio weight is from 10 to 1000")
	}
	w.discard(len(r.BlkioWeightDevice) > 0, h.Cgroup.BlkioWeightDevice,
		"Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
		func() { r.BlkioWeightDevice = nil })
	if slices.Contains(r.BlkioWeightDevice, nil) {
		return invalid("invalid weight of a device: null")
	}
	for _, d := range r.BlkioWeightDevice {
		if d.Weight > 0 && (d.Weight < 10 || d.Weight > 1000) {
			return invalid("Range of blkio weight is from 10 to 1000")
		}
	}
	for _, t := range []struct {
		what      string
		devices   *[]*blkiodev.ThrottleDevice
		supported bool
	}{
		{"BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit", &r.BlkioDeviceReadBps, h.Cgroup.ReadBps},
		{"BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit", &r.BlkioDeviceWriteBps, h.Cgroup.WriteBps},
		{"IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit", &r.BlkioDeviceReadIOps, h.Cgroup.ReadIOps},
		{"IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit", &r.BlkioDeviceWriteIOps, h.Cgroup.WriteIOps},
	} {
		w.discard(len(*t.devices) > 0, t.supported, fmt.Sprintf("Your kernel does not support %s discarded.", t.what),
			func() { *t.devices = nil })
		if slices.Contains(*t.devices, nil) {
			return invalid("invalid limit of a device: null")
		}
	}
	return nil
}
