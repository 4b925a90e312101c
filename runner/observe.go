package runner

import (
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"
)

// StatsOptions say how often a container's statistics are wanted.
type StatsOptions struct {
	Stream bool // every second, until the client has enough
	// OneShot wants one sample at once, without the one before that shares of a
	// processor are computed of.
	OneShot bool
}

// DiskUsageOptions say what is to be measured.
type DiskUsageOptions struct {
	Images, Containers, Volumes, BuildCache bool
}

// DiskUsage is what of the disk the engine's objects take. What was not asked for
// is nil.
type DiskUsage struct {
	LayersSize int64 // bytes of the layers of all images, each once
	Images     []image.Summary
	Containers []container.Summary
	Volumes    []volume.Volume
	BuildCache []build.CacheRecord
}
