package api_test

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// ContainerStats yields two samples a stream, or what was asked for as a name.
func (e *engine) ContainerStats(_ context.Context, ref string, opts runner.StatsOptions) (iter.Seq[*container.StatsResponse], error) {
	if err := e.find(ref); err != nil {
		return nil, err
	}
	return func(yield func(*container.StatsResponse) bool) {
		one := container.StatsResponse{Name: "/box", Read: time.Unix(1, 0).UTC(), MemoryStats: container.MemoryStats{Stats: map[string]uint64{"cache": 7}}}
		if opts.OneShot {
			one.Name = "/shot"
		}
		if yield(&one) && opts.Stream {
			two := one
			yield(&two)
		}
	}, nil
}

// DiskUsage has one of everything that is asked for.
func (e *engine) DiskUsage(_ context.Context, opts runner.DiskUsageOptions) (du runner.DiskUsage, err error) {
	if opts.Images {
		du.LayersSize, du.Images = 10, []image.Summary{{ID: "i", Size: 10, SharedSize: 4, Containers: 1}}
	}
	if opts.Containers {
		du.Containers = []container.Summary{{ID: "c", SizeRw: 3, State: container.StateExited}, {ID: "d", SizeRw: 2, State: container.StateRunning}}
	}
	if opts.Volumes {
		du.Volumes = []volume.Volume{{Name: "v", UsageData: &volume.UsageData{Size: 5, RefCount: 0}}}
	}
	if opts.BuildCache {
		du.BuildCache = []build.CacheRecord{{ID: "b", Size: 6}}
	}
	return du, nil
}

func TestStats(t *testing.T) {
	socket, _ := serve(t, newEngine())
	for _, tt := range []struct {
		path string
		code int
		want string // names, or the error
	}{
		{"/containers/box/stats", 200, "/box /box"},
		{"/containers/box/stats?stream=1", 200, "/box /box"},
		{"/containers/box/stats?stream=false", 200, "/box"},
		{"/containers/box/stats?stream=0&one-shot=true", 200, "/shot"},
		{"/v1.40/containers/box/stats?stream=0&one-shot=true", 200, "/box"},
		{"/containers/box/stats?one-shot=1", 400, "cannot have stream=true and one-shot=true"},
		{"/containers/none/stats", 404, "No such container: none"},
	} {
		resp := request(t, socket, "GET", tt.path, "")
		var got []string
		for d := json.NewDecoder(resp.Body); ; {
			var line struct {
				Name    string `json:"name"`
				Message string `json:"message"`
			}
			if d.Decode(&line) != nil {
				break
			}
			got = append(got, line.Name+line.Message)
		}
		if s := strings.Join(got, " "); resp.StatusCode != tt.code || s != tt.want || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %s %q, want %d %q", tt.path, resp.Status, s, tt.code, tt.want)
		}
	}
}

func TestDiskUsage(t *testing.T) {
	socket, _ := serve(t, newEngine())
	for _, tt := range []struct {
		path string
		want string // the beginning
	}{
		{"/v1.41/system/df?type=image", `{"LayersSize":10,"Images":[{"Containers":1,"Created":0,"Id":"i",`},
		{"/v1.51/system/df?type=container&type=build-cache", `{"LayersSize":0,"Images":null,"Containers":[{"Id":"c",`},
		{"/v1.51/system/df?type=volume", `{"LayersSize":0,"Images":null,"Containers":null,"Volumes":[{`},
		{"/v1.51/system/df?type=ship", `{"message":"unknown object type: ship"}`},
	} {
		if got := text(t, request(t, socket, "GET", tt.path, "")); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %s, want %s…", tt.path, got, tt.want)
		}
	}
	for path, want := range map[string]bool{"/v1.41/system/df": true, "/v1.42/system/df": false} {
		if got := text(t, request(t, socket, "GET", path, "")); strings.Contains(got, `"BuilderSize":6`) != want || strings.Contains(got, `"VirtualSize":10`) == false {
			t.Errorf("%s: %s", path, got)
		}
	}
	if resp := request(t, socket, "GET", "/v1.24/system/df", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("before there was any: %s", resp.Status)
	}
}

func TestEventFilters(t *testing.T) {
	socket, _ := serve(t, newEngine())
	resp := request(t, socket, "GET", `/events?filters={"ship":["x"]}`, "")
	if got := text(t, resp); resp.StatusCode != http.StatusBadRequest || got != `{"message":"invalid filter 'ship'"}`+"\n" {
		t.Errorf("%s %s", resp.Status, got)
	}
}
