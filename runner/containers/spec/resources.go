package spec

import (
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// resources are the limits of a container. The rules for devices are left out.
func resources(in Input) (*specs.LinuxResources, error) {
	return Resources(in.Container.HostConfig.Resources, in.Device)
}

// Resources returns the limits that r asks for, for a container that starts or
// one that is updated. What is not asked for is nil: a runtime touches no more
// than it has to. device finds devices, as FindDevices does; it may be nil if
// no limit is about one.
func Resources(r container.Resources, device func(string) ([]specs.LinuxDevice, error)) (*specs.LinuxResources, error) {
	res := &specs.LinuxResources{Memory: memory(r), CPU: cpu(r)}
	if r.PidsLimit != nil {
		limit := *r.PidsLimit
		if limit <= 0 {
			limit = -1 // none
		}
		res.Pids = &specs.LinuxPids{Limit: &limit}
	}
	io, err := blockIO(r, device)
	res.BlockIO = io
	return res, err
}

func memory(r container.Resources) *specs.LinuxMemory {
	var m specs.LinuxMemory
	if r.Memory > 0 {
		m.Limit = &r.Memory
	}
	if r.MemoryReservation > 0 {
		m.Reservation = &r.MemoryReservation
	}
	if r.MemorySwap > 0 || r.MemorySwap == -1 && r.Memory > 0 {
		m.Swap = &r.MemorySwap
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		swappiness := uint64(*r.MemorySwappiness)
		m.Swappiness = &swappiness
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		m.DisableOOMKiller = r.OomKillDisable
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

// cfsPeriod is the kernel's period of CPU quotas, in microseconds.
const cfsPeriod = 100_000

func cpu(r container.Resources) *specs.LinuxCPU {
	c := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	unsigned := func(n int64) *uint64 {
		if n <= 0 {
			return nil
		}
		u := uint64(n)
		return &u
	}
	c.Shares = unsigned(r.CPUShares)
	c.Period = unsigned(r.CPUPeriod)
	c.RealtimePeriod = unsigned(r.CPURealtimePeriod)
	if r.CPUQuota != 0 {
		c.Quota = &r.CPUQuota
	}
	if r.NanoCPUs > 0 {
		quota := r.NanoCPUs * cfsPeriod / 1e9
		c.Period, c.Quota = unsigned(cfsPeriod), &quota
	}
	if r.CPURealtimeRuntime != 0 {
		c.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

func blockIO(r container.Resources, device func(string) ([]specs.LinuxDevice, error)) (*specs.LinuxBlockIO, error) {
	var io specs.LinuxBlockIO
	used := false
	if r.BlkioWeight > 0 {
		io.Weight, used = &r.BlkioWeight, true
	}
	for _, w := range r.BlkioWeightDevice {
		d, err := blockDevice(device, w.Path)
		if err != nil {
			return nil, err
		}
		weight := specs.LinuxWeightDevice{Weight: &w.Weight}
		weight.Major, weight.Minor = d.Major, d.Minor
		io.WeightDevice, used = append(io.WeightDevice, weight), true
	}
	for _, t := range []struct {
		asked []*blkiodev.ThrottleDevice
		field *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &io.ThrottleReadBpsDevice},
		{r.BlkioDeviceWriteBps, &io.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &io.ThrottleReadIOPSDevice},
		{r.BlkioDeviceWriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for _, asked := range t.asked {
			d, err := blockDevice(device, asked.Path)
			if err != nil {
				return nil, err
			}
			throttle := specs.LinuxThrottleDevice{Rate: asked.Rate}
			throttle.Major, throttle.Minor = d.Major, d.Minor
			*t.field, used = append(*t.field, throttle), true
		}
	}
	if !used {
		return nil, nil
	}
	return &io, nil
}

// blockDevice finds the device that a limit is about.
func blockDevice(device func(string) ([]specs.LinuxDevice, error), path string) (specs.LinuxDevice, error) {
	found, err := device(path)
	if err != nil {
		return specs.LinuxDevice{}, runner.Errorf(runner.ErrInvalid, "stat %s: %w", path, plainError(err))
	}
	if len(found) != 1 || found[0].Type != "b" {
		return specs.LinuxDevice{}, runner.Errorf(runner.ErrInvalid, "%s is not a block device", path)
	}
	return found[0], nil
}
