package engine

import (
	"slices"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

// throttles are the lists of limits of devices in r, in a fixed order.
func throttles(r *container.Resources) []*[]*blkiodev.ThrottleDevice {
	return []*[]*blkiodev.ThrottleDevice{&r.BlkioDeviceReadBps, &r.BlkioDeviceWriteBps, &r.BlkioDeviceReadIOps, &r.BlkioDeviceWriteIOps}
}

// replaceDevices puts the limits of devices that are asked for in the place of
// those there are. A list that is nil stays, an empty one takes all away.
func replaceDevices(next *container.Resources, asked container.Resources) {
	if asked.BlkioWeightDevice != nil {
		next.BlkioWeightDevice = asked.BlkioWeightDevice
	}
	from := throttles(&asked)
	for i, list := range throttles(next) {
		if *from[i] != nil {
			*list = *from[i]
		}
	}
}

// withLifted adds to limits what the kernel is to be told of the devices that are
// without one now: it keeps what it is not told of. A rate of 0 is none, and a
// weight of 0 is that of the container.
func withLifted(next, before container.Resources) container.Resources {
	for _, d := range before.BlkioWeightDevice {
		if !slices.ContainsFunc(next.BlkioWeightDevice, func(w *blkiodev.WeightDevice) bool { return w.Path == d.Path }) {
			next.BlkioWeightDevice = append(slices.Clip(next.BlkioWeightDevice), &blkiodev.WeightDevice{Path: d.Path})
		}
	}
	from := throttles(&before)
	for i, list := range throttles(&next) {
		for _, d := range *from[i] {
			if !slices.ContainsFunc(*list, func(t *blkiodev.ThrottleDevice) bool { return t.Path == d.Path }) {
				*list = append(slices.Clip(*list), &blkiodev.ThrottleDevice{Path: d.Path})
			}
		}
	}
	return next
}
