package engine

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/logs"
)

// InspectContainer implements runner/api's Containers.
func (e *Engine) InspectContainer(ctx context.Context, ref string, size bool) (container.InspectResponse, error) {
	c, err := e.find(ref)
	if err != nil {
		return container.InspectResponse{}, err
	}
	rec, st := c.snapshot()
	dir := e.store.Dir(rec.ID)
	hc := *rec.HostConfig
	hc.Links = e.shownLinks(rec)
	if hc.Runtime == "" {
		hc.Runtime, _ = e.shim.Runtime()
	}
	hc.MaskedPaths, hc.ReadonlyPaths = spec.MaskedPaths(e.host, &hc), spec.ReadonlyPaths(&hc)
	resp := container.InspectResponse{
		ID:              rec.ID,
		Created:         rec.Created.Format(time.RFC3339Nano),
		Path:            rec.Path,
		Args:            slices.Clone(rec.Args),
		State:           inspectState(st, c.healthOf()),
		Image:           rec.ImageID,
		HostnamePath:    filepath.Join(dir, "hostname"),
		HostsPath:       filepath.Join(dir, "hosts"),
		ResolvConfPath:  filepath.Join(dir, "resolv.conf"),
		Name:            "/" + rec.Name,
		RestartCount:    st.RestartCount,
		Driver:          "overlay2",
		Platform:        rec.Platform,
		AppArmorProfile: spec.AppArmorProfile(e.host, &hc),
		ExecIDs:         e.execIDs(rec.ID),
		HostConfig:      &hc,
		GraphDriver:     e.graphDriver(rec),
		Mounts:          rec.Mounts,
		Config:          rec.Config,
		NetworkSettings: &container.NetworkSettings{
			Ports:    inspectPorts(rec, st),
			Networks: endpoints(rec, st),
		},
		ImageManifestDescriptor: rec.Manifest,
	}
	resp.NetworkSettings.SandboxID, resp.NetworkSettings.SandboxKey = sandbox(rec, st)
	if resp.Args == nil {
		resp.Args = []string{}
	}
	if resp.Mounts == nil {
		resp.Mounts = []container.MountPoint{}
	}
	if opts, err := e.logOptions(hc.LogConfig); err == nil && opts.Driver == logs.DriverJSONFile {
		resp.LogPath = e.logPath(rec.ID)
	}
	if size {
		rw, all, err := e.sizes(ctx, rec)
		if err != nil {
			return container.InspectResponse{}, err
		}
		resp.SizeRw, resp.SizeRootFs = &rw, &all
	}
	return resp, nil
}

func inspectState(st runner.State, health *container.Health) *container.State {
	return &container.State{
		Status:     st.Status,
		Running:    st.Running() || st.Status == container.StateRestarting,
		Paused:     st.Status == container.StatePaused,
		Restarting: st.Status == container.StateRestarting,
		OOMKilled:  st.OOMKilled,
		Pid:        st.PID,
		ExitCode:   st.ExitCode,
		Error:      st.Error,
		StartedAt:  st.StartedAt.Format(time.RFC3339Nano),
		FinishedAt: st.FinishedAt.Format(time.RFC3339Nano),
		Health:     health,
	}
}

// graphDriver names the directories of the container's tree. There is no merged
// one on the host: the tree is mounted where only the container's own monitor
// sees it.
func (e *Engine) graphDriver(rec *runner.Container) *storage.DriverData {
	return &storage.DriverData{
		Name: "overlay2",
		Data: map[string]string{
			"ID":       rec.ID,
			"LowerDir": strings.Join(rec.Lower, ":"),
			"UpperDir": e.store.Upper(rec.ID),
			"WorkDir":  e.store.Work(rec.ID),
		},
	}
}

// sandbox names the network namespace of a run: by the container, since it has
// no name of its own, and by where it can be found.
func sandbox(rec *runner.Container, st runner.State) (id, key string) {
	if !st.Running() || !hasOwnNetwork(rec) {
		return "", ""
	}
	return rec.ID, fmt.Sprintf("/proc/%d/ns/net", st.PID)
}

// inspectPorts has every exposed port of a running container, null if it is not
// published.
func inspectPorts(rec *runner.Container, st runner.State) network.PortMap {
	shown := network.PortMap{}
	if !st.Running() {
		return shown
	}
	for port := range rec.Config.ExposedPorts {
		shown[port] = nil
	}
	maps.Copy(shown, st.Ports)
	return shown
}
