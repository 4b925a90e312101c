package api

import (
	"testing"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

func TestSummed(t *testing.T) {
	du := runner.DiskUsage{
		LayersSize: 100,
		Images:     []image.Summary{{Size: 60, SharedSize: 20, Containers: 2}, {Size: 60, SharedSize: 20}},
		Containers: []container.Summary{{SizeRw: 3, State: container.StateExited}, {SizeRw: 2, State: container.StatePaused}},
		Volumes:    []volume.Volume{{UsageData: &volume.UsageData{Size: 5}}, {UsageData: &volume.UsageData{Size: 7, RefCount: 1}}, {}},
		BuildCache: []build.CacheRecord{{Size: 6}, {Size: 8, InUse: true}, {Size: 9, Shared: true}},
	}
	s := summed(du, false)
	if u := s.ImageUsage; u.TotalCount != 2 || u.ActiveCount != 1 || u.TotalSize != 100 || u.Reclaimable != 60 || u.Items != nil {
		t.Errorf("images: %+v", u)
	}
	if u := s.ContainerUsage; u.TotalCount != 2 || u.ActiveCount != 1 || u.TotalSize != 5 || u.Reclaimable != 3 {
		t.Errorf("containers: %+v", u)
	}
	if u := s.VolumeUsage; u.TotalCount != 3 || u.ActiveCount != 1 || u.TotalSize != 12 || u.Reclaimable != 5 {
		t.Errorf("volumes: %+v", u)
	}
	if u := s.BuildCacheUsage; u.TotalCount != 3 || u.ActiveCount != 1 || u.TotalSize != 14 || u.Reclaimable != 6 {
		t.Errorf("build cache: %+v", u)
	}
	if v := summed(runner.DiskUsage{Volumes: du.Volumes}, true); v.ImageUsage != nil || len(v.VolumeUsage.Items) != 3 {
		t.Errorf("volumes alone: %+v", v)
	}
}
