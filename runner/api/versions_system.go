package api

import (
	"strings"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// systemInfo is the engine with fields that left the API since.
type systemInfo struct {
	*system.Info

	ContainerdCommit, RuncCommit, InitCommit commit
	RegistryConfig                           *registryConfig `json:",omitempty"`
	BridgeNfIptables                         *bool           `json:",omitempty"`                  // until 1.50
	BridgeNfIP6tables                        *bool           `json:"BridgeNfIp6tables,omitempty"` // likewise
}

type commit struct {
	system.Commit

	Expected string `json:",omitempty"` // until 1.49
}

type registryConfig struct {
	*registry.ServiceConfig

	AllowNondistributableArtifactsCIDRs     *[]string `json:",omitempty"` // until 1.49
	AllowNondistributableArtifactsHostnames *[]string `json:",omitempty"` // likewise
}

// info is the answer to a request for information about the engine.
func (v version) info(i *system.Info) *systemInfo {
	if v < 53 {
		i.NRI = nil
	}
	out := &systemInfo{Info: i, ContainerdCommit: commit{Commit: i.ContainerdCommit}, RuncCommit: commit{Commit: i.RuncCommit}, InitCommit: commit{Commit: i.InitCommit}}
	if i.RegistryConfig != nil {
		out.RegistryConfig = &registryConfig{ServiceConfig: i.RegistryConfig}
	}
	if v < 50 {
		i.DiscoveredDevices = nil
		out.BridgeNfIptables, out.BridgeNfIP6tables = new(bool), new(bool)
	}
	if v < 49 {
		i.FirewallBackend = nil
		for _, c := range []*commit{&out.ContainerdCommit, &out.RuncCommit, &out.InitCommit} {
			c.Expected = c.ID
		}
		if r := out.RegistryConfig; r != nil {
			r.AllowNondistributableArtifactsCIDRs, r.AllowNondistributableArtifactsHostnames = &[]string{}, &[]string{}
		}
	}
	if v < 46 {
		i.Containerd = nil
	}
	if v < 44 {
		for name, r := range i.Runtimes {
			i.Runtimes[name] = system.RuntimeWithStatus{Runtime: r.Runtime}
		}
	}
	if v.securityOptionNames() {
		i.SecurityOptions = optionNames(i.SecurityOptions)
	}
	return out
}

// optionNames makes "seccomp" of "name=seccomp,profile=builtin".
func optionNames(options []string) []string {
	var names []string
	for _, o := range options {
		first, _, _ := strings.Cut(o, ",")
		names = append(names, strings.TrimPrefix(first, "name="))
	}
	return names
}

// apiVersions puts the versions of the API into the answer to a request for those
// of the engine.
func apiVersions(r *system.VersionResponse) {
	r.APIVersion, r.MinAPIVersion = maxVersion.String(), minVersion.String()
	for i := range r.Components {
		if c := &r.Components[i]; c.Name == "Engine" {
			if c.Details == nil {
				c.Details = map[string]string{}
			}
			c.Details["ApiVersion"], c.Details["MinAPIVersion"] = r.APIVersion, r.MinAPIVersion
		}
	}
}

// event is an event with the names that it had until 1.52.
type event struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`

	events.Message
}

// event returns the line for m, or false if the version has no such event.
func (v version) event(m events.Message) (event, bool) {
	e := event{Message: m}
	if m.Type == events.ImageEventType && m.Action == events.ActionCreate && !v.imageCreateEvents() {
		return event{}, false
	}
	if v >= 52 {
		return e, true
	}
	switch m.Type { //nolint:exhaustive // the others never had names
	case events.ImageEventType:
		e.Status, e.ID = string(m.Action), m.Actor.ID
	case events.ContainerEventType:
		e.Status, e.ID, e.From = string(m.Action), m.Actor.ID, m.Actor.Attributes["image"]
	}
	return e, true
}

// diskUsage is what there was in place of system.DiskUsage until 1.52.
type diskUsage struct {
	LayersSize  int64
	Images      []listedImage
	Containers  []container.Summary
	Volumes     []volume.Volume
	BuildCache  []build.CacheRecord
	BuilderSize *int64 `json:",omitempty"` // until 1.42
}

// diskUsage is the answer to a request for what is taken of the disk. What was not
// asked for is null.
func (v version) diskUsage(du runner.DiskUsage, verbose bool) any {
	switch {
	case v < 52:
		return v.listedUsage(du)
	case v == 52 && !verbose: // which had both
		return struct {
			system.DiskUsage
			diskUsage
		}{summed(du, false), v.listedUsage(du)}
	}
	return summed(du, verbose)
}

// listedUsage is what is taken of the disk as lists of what takes it.
func (v version) listedUsage(du runner.DiskUsage) diskUsage {
	old := diskUsage{LayersSize: du.LayersSize, Volumes: du.Volumes, BuildCache: du.BuildCache}
	if du.Images != nil {
		users := make([]int64, len(du.Images))
		for i, image := range du.Images {
			users[i] = image.Containers
		}
		old.Images = v.imageList(du.Images)
		for i := range old.Images {
			old.Images[i].Containers = users[i] // which a list did not have
		}
	}
	if du.Containers != nil {
		old.Containers = v.containerList(du.Containers)
	}
	if v < 42 {
		old.BuilderSize = new(int64)
		for _, r := range du.BuildCache {
			*old.BuilderSize += r.Size
		}
	}
	return old
}

// progressLine is a line of progress with what clients read before there were
// progressDetail and errorDetail, and what some still do.
type progressLine struct {
	jsonstream.Message

	ProgressText string `json:"progress,omitempty"`
	ErrorText    string `json:"error,omitempty"`
}

func (v version) progress(m jsonstream.Message) progressLine {
	line := progressLine{Message: m}
	if m.Progress != nil {
		line.ProgressText = progressBar(m.Progress)
	}
	if m.Error != nil {
		line.ErrorText = m.Error.Message
	}
	return line
}
