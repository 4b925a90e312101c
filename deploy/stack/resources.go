package stack

import (
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// resources are limits and devices, as docker compose makes them of the old keys and
// of deploy.resources, which go first.
func (t *translation) resources(p keys, s types.ServiceConfig) container.Resources {
	r := container.Resources{
		CgroupParent:       s.CgroupParent,
		Memory:             int64(s.MemLimit),
		MemorySwap:         int64(s.MemSwapLimit),
		MemoryReservation:  int64(s.MemReservation),
		OomKillDisable:     &s.OomKillDisable,
		CPUPeriod:          s.CPUPeriod,
		CPUQuota:           s.CPUQuota,
		CPURealtimePeriod:  s.CPURTPeriod,
		CPURealtimeRuntime: s.CPURTRuntime,
		CPUShares:          s.CPUShares,
		NanoCPUs:           int64(s.CPUS * 1e9),
		CpusetCpus:         s.CPUSet,
		DeviceCgroupRules:  s.DeviceCgroupRules,
	}
	if s.MemSwappiness != 0 {
		swappiness := int64(s.MemSwappiness)
		r.MemorySwappiness = &swappiness
	}
	if s.PidsLimit != 0 {
		r.PidsLimit = &s.PidsLimit
	}
	blkio(s.BlkioConfig, &r)
	if s.Deploy != nil {
		limits(s.Deploy.Resources.Limits, &r)
		reservations(s.Deploy.Resources.Reservations, &r)
	}
	devices(s, &r)
	for name, u := range byKey(s.Ulimits) {
		if u == nil {
			t.addf(p.at("ulimits", name), "a limit is a number, or soft and hard")
			continue
		}
		l := &container.Ulimit{Name: name, Soft: int64(u.Single), Hard: int64(u.Single)}
		if u.Soft != 0 {
			l.Soft = int64(u.Soft)
		}
		if u.Hard != 0 {
			l.Hard = int64(u.Hard)
		}
		r.Ulimits = append(r.Ulimits, l)
	}
	return r
}

func blkio(b *types.BlkioConfig, r *container.Resources) {
	if b == nil {
		return
	}
	r.BlkioWeight = b.Weight
	for _, d := range b.WeightDevice {
		r.BlkioWeightDevice = append(r.BlkioWeightDevice, &blkiodev.WeightDevice{Path: d.Path, Weight: d.Weight})
	}
	r.BlkioDeviceReadBps = throttles(b.DeviceReadBps)
	r.BlkioDeviceReadIOps = throttles(b.DeviceReadIOps)
	r.BlkioDeviceWriteBps = throttles(b.DeviceWriteBps)
	r.BlkioDeviceWriteIOps = throttles(b.DeviceWriteIOps)
}

func throttles(devices []types.ThrottleDevice) []*blkiodev.ThrottleDevice {
	var out []*blkiodev.ThrottleDevice
	for _, d := range devices {
		out = append(out, &blkiodev.ThrottleDevice{Path: d.Path, Rate: uint64(d.Rate)})
	}
	return out
}

func limits(l *types.Resource, r *container.Resources) {
	if l == nil {
		return
	}
	if l.MemoryBytes != 0 {
		r.Memory = int64(l.MemoryBytes)
	}
	if l.NanoCPUs != 0 {
		r.NanoCPUs = int64(l.NanoCPUs * 1e9)
	}
	if l.Pids > 0 {
		r.PidsLimit = &l.Pids
	}
}

func reservations(l *types.Resource, r *container.Resources) {
	if l == nil {
		return
	}
	if l.MemoryBytes != 0 {
		r.MemoryReservation = int64(l.MemoryBytes)
	}
	for _, d := range l.Devices {
		r.DeviceRequests = append(r.DeviceRequests, deviceRequest(d, d.Capabilities))
	}
}

func deviceRequest(d types.DeviceRequest, capabilities []string) container.DeviceRequest {
	return container.DeviceRequest{
		Driver: d.Driver, Count: int(d.Count), DeviceIDs: d.IDs,
		Capabilities: [][]string{capabilities}, Options: d.Options,
	}
}

// devices are those of the host by their paths, those that CDI names, and GPUs.
func devices(s types.ServiceConfig, r *container.Resources) {
	var named []string
	for _, d := range s.Devices {
		if d.Source == d.Target && parser.IsQualifiedName(d.Source) {
			named = append(named, d.Source)
			continue
		}
		r.Devices = append(r.Devices, container.DeviceMapping{
			PathOnHost: d.Source, PathInContainer: d.Target, CgroupPermissions: d.Permissions,
		})
	}
	if len(named) > 0 {
		r.DeviceRequests = append(r.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: named})
	}
	for _, g := range s.Gpus {
		capabilities := append(append([]string{}, g.Capabilities...), "gpu")
		r.DeviceRequests = append(r.DeviceRequests, deviceRequest(g, capabilities))
	}
}
