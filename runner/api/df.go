package api

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// DiskUsages is what the engine's objects take of the disk.
type DiskUsages interface {
	DiskUsage(ctx context.Context, opts runner.DiskUsageOptions) (runner.DiskUsage, error)
}

func (x *exchange) diskUsage() error {
	opts, err := x.diskUsageOptions()
	if err != nil {
		return err
	}
	du, err := x.engine.DiskUsage(x.r.Context(), opts)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, x.v.diskUsage(du, x.isSet("verbose")))
}

// diskUsageOptions reads what is to be measured: all, unless the client names it.
func (x *exchange) diskUsageOptions() (runner.DiskUsageOptions, error) {
	types := x.q["type"]
	if !x.v.diskUsageTypes() || len(types) == 0 {
		return runner.DiskUsageOptions{Images: true, Containers: true, Volumes: true, BuildCache: true}, nil
	}
	var opts runner.DiskUsageOptions
	for _, t := range types {
		switch system.DiskUsageObject(t) {
		case system.ImageObject:
			opts.Images = true
		case system.ContainerObject:
			opts.Containers = true
		case system.VolumeObject:
			opts.Volumes = true
		case system.BuildCacheObject:
			opts.BuildCache = true
		default:
			return opts, runner.Errorf(runner.ErrInvalid, "unknown object type: %s", t)
		}
	}
	return opts, nil
}

// summed is what the disk's use comes to, since 1.52.
func summed(du runner.DiskUsage, verbose bool) system.DiskUsage {
	var s system.DiskUsage
	if du.Images != nil {
		s.ImageUsage = summedImages(du, verbose)
	}
	if du.Containers != nil {
		s.ContainerUsage = summedContainers(du.Containers, verbose)
	}
	if du.Volumes != nil {
		s.VolumeUsage = summedVolumes(du.Volumes, verbose)
	}
	if du.BuildCache != nil {
		s.BuildCacheUsage = summedCache(du.BuildCache, verbose)
	}
	return s
}

func summedImages(du runner.DiskUsage, verbose bool) *image.DiskUsage {
	u := &image.DiskUsage{TotalCount: int64(len(du.Images)), TotalSize: du.LayersSize, Reclaimable: du.LayersSize}
	for _, i := range du.Images {
		if i.Containers > 0 {
			u.ActiveCount++
			u.Reclaimable -= i.Size - i.SharedSize
		}
	}
	if verbose {
		u.Items = du.Images
	}
	return u
}

func summedContainers(list []container.Summary, verbose bool) *container.DiskUsage {
	u := &container.DiskUsage{TotalCount: int64(len(list))}
	for _, c := range list {
		u.TotalSize += c.SizeRw
		switch c.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			u.ActiveCount++
		default:
			u.Reclaimable += c.SizeRw
		}
	}
	if verbose {
		u.Items = list
	}
	return u
}

func summedVolumes(list []volume.Volume, verbose bool) *volume.DiskUsage {
	u := &volume.DiskUsage{TotalCount: int64(len(list))}
	for _, v := range list {
		if v.UsageData == nil {
			continue
		}
		u.TotalSize += v.UsageData.Size
		if v.UsageData.RefCount > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += v.UsageData.Size
		}
	}
	if verbose {
		u.Items = list
	}
	return u
}

func summedCache(list []build.CacheRecord, verbose bool) *build.DiskUsage {
	u := &build.DiskUsage{TotalCount: int64(len(list))}
	for _, r := range list {
		if !r.Shared {
			u.TotalSize += r.Size
		}
		if r.InUse {
			u.ActiveCount++
		} else if !r.Shared {
			u.Reclaimable += r.Size
		}
	}
	if verbose {
		u.Items = list
	}
	return u
}
