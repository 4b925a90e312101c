package engine

import (
	"cmp"
	"context"
	"fmt"
	"reflect"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// UpdateContainer implements runner/api's Containers: it changes the limits and
// the restart policy of a container, at once if it runs. What is zero stays.
func (e *Engine) UpdateContainer(ctx context.Context, ref string, update container.UpdateConfig) (container.UpdateResponse, error) {
	resp := container.UpdateResponse{Warnings: []string{}}
	if err := container.ValidateRestartPolicy(update.RestartPolicy); err != nil {
		return resp, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	c, unlock, err := e.findLocked(ctx, ref)
	if err != nil {
		return resp, err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	rec, st := c.snapshot()
	hc, changed := *rec.HostConfig, *rec
	changed.HostConfig = &hc
	if hc.Resources, err = updated(hc.Resources, update.Resources); err != nil {
		return resp, err
	}
	warnings, err := spec.ValidateResources(e.specHost(), &hc.Resources, true)
	if err != nil {
		return resp, err
	}
	resp.Warnings = append(resp.Warnings, warnings...)
	if update.RestartPolicy.Name != "" {
		if hc.AutoRemove && !update.RestartPolicy.IsNone() {
			return resp, runner.Errorf(runner.ErrConflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		hc.RestartPolicy = update.RestartPolicy
	}
	// A list that is empty and none are the same limits.
	if st.Running() && !reflect.DeepEqual(withoutEmpty(hc.Resources), withoutEmpty(rec.HostConfig.Resources)) {
		if err := e.setLimits(ctx, c, hc.Resources, rec.HostConfig.Resources); err != nil {
			return resp, err
		}
	}
	if err := e.replaceRecord(c, &changed); err != nil {
		return resp, err
	}
	e.containerEvent(c, events.ActionUpdate)
	return resp, nil
}

// setLimits gives a running container its limits. If the kernel does not take them
// all, such as less memory than is in use, those of before are set again.
func (e *Engine) setLimits(ctx context.Context, c *ctr, next, before container.Resources) error {
	limits, err := spec.Resources(withLifted(next, before), spec.FindDevices)
	if err != nil {
		return err
	}
	if err = e.shim.Update(ctx, c.id, limits); err == nil {
		return nil
	}
	if limits, undo := spec.Resources(withLifted(before, next), spec.FindDevices); undo == nil {
		undo = e.shim.Update(ctx, c.id, limits)
		if ignoreEnded(undo) != nil {
			e.log.WarnContext(ctx, "set the limits of before again", "container", c.id, "error", undo)
		}
	}
	return fmt.Errorf("Cannot %w", err) //nolint:staticcheck // docker's words begin so
}

// updated returns the limits own with those of asked that are not zero.
func updated(own, asked container.Resources) (container.Resources, error) {
	if !reflect.DeepEqual(withoutEmpty(onlyUpdatable(asked)), withoutEmpty(asked)) {
		return own, runner.Errorf(runner.ErrNotImplemented,
			"only the limits of CPU, memory, processes and block I/O of a container can be updated: create it anew with the others")
	}
	switch {
	case asked.NanoCPUs > 0 && (own.CPUPeriod > 0 || own.CPUQuota > 0):
		return own, runner.Errorf(runner.ErrConflict, "Conflicting options: Nano CPUs cannot be updated as CPU Period or CPU Quota has already been set")
	case asked.CPUPeriod > 0 && own.NanoCPUs > 0:
		return own, runner.Errorf(runner.ErrConflict, "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case asked.CPUQuota > 0 && own.NanoCPUs > 0:
		return own, runner.Errorf(runner.ErrConflict, "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case asked.Memory > 0 && asked.MemorySwap == 0 && own.MemorySwap > 0 && asked.Memory > own.MemorySwap:
		return own, runner.Errorf(runner.ErrConflict, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	next := own
	next.CPUShares = cmp.Or(asked.CPUShares, own.CPUShares)
	next.NanoCPUs = cmp.Or(asked.NanoCPUs, own.NanoCPUs)
	next.CPUPeriod = cmp.Or(asked.CPUPeriod, own.CPUPeriod)
	next.CPUQuota = cmp.Or(asked.CPUQuota, own.CPUQuota)
	next.CPURealtimePeriod = cmp.Or(asked.CPURealtimePeriod, own.CPURealtimePeriod)
	next.CPURealtimeRuntime = cmp.Or(asked.CPURealtimeRuntime, own.CPURealtimeRuntime)
	next.CpusetCpus = cmp.Or(asked.CpusetCpus, own.CpusetCpus)
	next.CpusetMems = cmp.Or(asked.CpusetMems, own.CpusetMems)
	next.Memory = cmp.Or(asked.Memory, own.Memory)
	next.MemorySwap = cmp.Or(asked.MemorySwap, own.MemorySwap)
	if own.Memory == 0 && asked.Memory > 0 && next.MemorySwap == 0 {
		next.MemorySwap = 2 * asked.Memory // as at create
	}
	next.MemoryReservation = cmp.Or(asked.MemoryReservation, own.MemoryReservation)
	next.BlkioWeight = cmp.Or(asked.BlkioWeight, own.BlkioWeight)
	next.PidsLimit = cmp.Or(asked.PidsLimit, own.PidsLimit)
	replaceDevices(&next, asked)
	return next, nil
}

// onlyUpdatable leaves of r the limits that a container can be given later.
func onlyUpdatable(r container.Resources) container.Resources {
	return container.Resources{
		CPUShares: r.CPUShares, NanoCPUs: r.NanoCPUs, CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota,
		CPURealtimePeriod: r.CPURealtimePeriod, CPURealtimeRuntime: r.CPURealtimeRuntime,
		CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
		Memory: r.Memory, MemorySwap: r.MemorySwap, MemoryReservation: r.MemoryReservation,
		BlkioWeight: r.BlkioWeight, PidsLimit: r.PidsLimit,
		BlkioWeightDevice:  r.BlkioWeightDevice,
		BlkioDeviceReadBps: r.BlkioDeviceReadBps, BlkioDeviceWriteBps: r.BlkioDeviceWriteBps,
		BlkioDeviceReadIOps: r.BlkioDeviceReadIOps, BlkioDeviceWriteIOps: r.BlkioDeviceWriteIOps,
	}
}

// withoutEmpty makes the empty lists that clients send nil.
func withoutEmpty(r container.Resources) container.Resources {
	v := reflect.ValueOf(&r).Elem()
	for _, f := range v.Fields() {
		if f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	return r
}
