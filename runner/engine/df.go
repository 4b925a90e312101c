package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// DiskUsage implements runner/api's DiskUsages. One measures at a time: files are
// walked, and a disk is not quicker for two who do it.
func (e *Engine) DiskUsage(ctx context.Context, opts runner.DiskUsageOptions) (du runner.DiskUsage, err error) {
	select {
	case e.measuring <- struct{}{}:
		defer func() { <-e.measuring }()
	case <-ctx.Done():
		return du, ctx.Err()
	}
	if opts.Images {
		if du.Images, du.LayersSize, err = e.imageUsage(ctx); err != nil {
			return du, err
		}
	}
	if opts.Containers {
		if du.Containers, err = e.containerUsage(ctx); err != nil {
			return du, err
		}
	}
	if opts.Volumes {
		if du.Volumes, err = e.volumeUsage(ctx); err != nil {
			return du, err
		}
	}
	if opts.BuildCache {
		du.BuildCache, err = e.BuildCache(ctx)
	}
	return du, err
}

func (e *Engine) imageUsage(ctx context.Context) ([]image.Summary, int64, error) {
	list, err := e.images.List(ctx, runner.ImageListOptions{}, e.countByImage)
	if err != nil {
		return nil, 0, err
	}
	layers, shared := e.images.Usage()
	for i := range list {
		list[i].SharedSize = shared[list[i].ID]
	}
	return list, layers, nil
}

// containerUsage lists all containers with the sizes of their files. One that is
// removed meanwhile is not among them.
func (e *Engine) containerUsage(ctx context.Context) ([]container.Summary, error) {
	list := []container.Summary{}
	for _, c := range e.all() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rec, st := c.snapshot()
		one := summary(rec, st, c.healthOf())
		var err error
		one.SizeRw, one.SizeRootFs, err = e.sizes(ctx, rec)
		switch {
		case isClosed(c.removed):
		case err != nil:
			return nil, err
		default:
			list = append(list, one)
		}
	}
	slices.SortFunc(list, func(a, b container.Summary) int { // the newest first
		return cmp.Or(cmp.Compare(b.Created, a.Created), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// volumeUsage lists the volumes whose files are here: those with options are
// somebody else's.
func (e *Engine) volumeUsage(ctx context.Context) ([]volume.Volume, error) {
	all, err := e.volumes.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	list := []volume.Volume{}
	for _, v := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(v.Options) > 0 {
			continue
		}
		usage, err := e.volumes.Usage(ctx, v.Name)
		if errors.Is(err, runner.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v.UsageData = &usage
		list = append(list, v)
	}
	return list, nil
}
