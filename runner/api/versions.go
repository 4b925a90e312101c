package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// This file holds everything that depends on the version of the API. The types of
// github.com/moby/moby/api are those of its newest; what an older one had besides
// is put back here, and what it did not have is taken away.

// version is the N of an API version 1.N.
type version int

const (
	// minVersion is the oldest that clients in use still speak.
	minVersion version = 24
	// maxVersion is the newest whose behaviour Berth has: that of moby/api v1.56.
	maxVersion version = 56
)

func (v version) String() string { return "1." + strconv.Itoa(int(v)) }

// negotiate reads the version that a path names. None is the newest.
func negotiate(s string) (version, error) {
	if s == "" {
		return maxVersion, nil
	}
	major, minor, _ := strings.Cut(s, ".")
	minor, _, _ = strings.Cut(minor, ".")
	m, errMajor := strconv.ParseUint("0"+major, 10, 31)
	n, errMinor := strconv.ParseUint("0"+minor, 10, 31)
	switch {
	case errMajor != nil || m > 1 || m == 1 && (errMinor != nil || version(n) > maxVersion):
		return 0, runner.Errorf(runner.ErrInvalid,
			"client version %s is too new. Maximum supported API version is %s", s, maxVersion)
	case m < 1 || version(n) < minVersion:
		return 0, runner.Errorf(runner.ErrInvalid,
			"client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", s, minVersion)
	}
	return version(n), nil
}

// What requests could say from which version on.
func (v version) binaryFrames() bool        { return v >= 28 } // of WebSockets
func (v version) waitCondition() bool       { return v >= 30 } // and wait answers at once
func (v version) waitErrors() bool          { return v >= 34 }
func (v version) buildAux() bool            { return v >= 30 } // messages for programs
func (v version) buildPlatform() bool       { return v >= 32 }
func (v version) buildOutputs() bool        { return v >= 40 }
func (v version) buildSpaces() bool         { return v >= 48 } // to keep when pruning
func (v version) pullPlatform() bool        { return v >= 32 }
func (v version) createPlatform() bool      { return v >= 41 }
func (v version) stopSignal() bool          { return v >= 42 }
func (v version) consoleSize() bool         { return v >= 42 }
func (v version) pushPlatform() bool        { return v >= 46 }
func (v version) listManifests() bool       { return v >= 47 }
func (v version) inspectManifests() bool    { return v >= 48 }
func (v version) historyPlatform() bool     { return v >= 48 }
func (v version) savePlatform() bool        { return v >= 48 }
func (v version) inspectPlatform() bool     { return v >= 49 }
func (v version) removePlatforms() bool     { return v >= 50 }
func (v version) transferPlatforms() bool   { return v >= 52 } // several
func (v version) listIdentity() bool        { return v >= 54 }
func (v version) annotationFilter() bool    { return v >= 56 }
func (v version) imageFilterParam() bool    { return v < 41 }  // filter=NAME
func (v version) pruneNamedVolumes() bool   { return v < 42 }  // without being asked
func (v version) multiplexedContent() bool  { return v >= 42 } // says its own content type
func (v version) imageCreateEvents() bool   { return v >= 46 }
func (v version) oneShot() bool             { return v >= 41 }
func (v version) diskUsageTypes() bool      { return v >= 42 }
func (v version) securityOptionNames() bool { return v < 25 }

// createBody is the body of a request to create a container.
type createBody struct {
	container.CreateRequest

	// A string stood for a list of one.
	Cmd, Entrypoint words
	// MacAddress of the first network, before networks had their own.
	MacAddress network.HardwareAddr
}

// create makes of a request what the newest version would have said.
func (v version) create(b *createBody) (container.CreateRequest, []string, error) {
	req := b.CreateRequest
	if req.Config == nil {
		if b.Cmd == nil && b.Entrypoint == nil {
			return req, nil, runner.Errorf(runner.ErrInvalid, "config cannot be empty in order to create a container")
		}
		req.Config = &container.Config{}
	}
	req.Cmd, req.Entrypoint = b.Cmd, b.Entrypoint
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.NetworkingConfig == nil {
		req.NetworkingConfig = &network.NetworkingConfig{}
	}
	endpoints := req.NetworkingConfig.EndpointsConfig
	if endpoints == nil {
		endpoints = map[string]*network.EndpointSettings{}
		req.NetworkingConfig.EndpointsConfig = endpoints
	}
	for name, e := range endpoints {
		if e == nil {
			endpoints[name] = &network.EndpointSettings{}
		}
	}
	defaultNetwork(req.HostConfig, endpoints)
	warnings := v.createPorts(req.HostConfig.PortBindings)
	if err := v.createHost(req.HostConfig); err != nil {
		return req, nil, err
	}
	if v < 44 && req.Healthcheck != nil {
		req.Healthcheck.StartInterval = 0
	}
	mac := b.MacAddress
	if v >= 52 {
		mac = nil // no longer a field
	}
	more, err := v.createEndpoints(req.HostConfig, endpoints, mac)
	return req, append(warnings, more...), err
}

// createPorts has ports without bindings be bound to ports that the engine
// chooses, which 1.52 warns of.
func (v version) createPorts(bindings network.PortMap) []string {
	var empty []string
	for port, list := range bindings {
		if len(list) == 0 {
			bindings[port] = []network.PortBinding{{}}
			empty = append(empty, port.String())
		}
	}
	if v < 52 || len(empty) == 0 {
		return nil
	}
	slices.Sort(empty)
	return []string{fmt.Sprintf("Following container port(s) have an empty list of port-bindings: %s. Such bindings will be discarded in a future version.", strings.Join(empty, ", "))}
}

// defaultNetwork puts the name of the network that "default" means in its place.
func defaultNetwork(h *container.HostConfig, endpoints map[string]*network.EndpointSettings) {
	if h.NetworkMode != "" && !h.NetworkMode.IsDefault() {
		return
	}
	h.NetworkMode = network.NetworkBridge
	if e, ok := endpoints[network.NetworkDefault]; ok {
		delete(endpoints, network.NetworkDefault)
		endpoints[network.NetworkBridge] = e
	}
}

func (v version) createHost(h *container.HostConfig) error {
	if v < 25 {
		h.AutoRemove = false // the client removes it
	}
	if v < 40 && h.IpcMode.IsEmpty() {
		h.IpcMode = container.IPCModeShareable
	}
	if v < 41 && h.CgroupnsMode.IsEmpty() {
		h.CgroupnsMode = container.CgroupnsModeHost
	}
	if v < 42 {
		h.ConsoleSize = [2]uint{}
	}
	if v < 43 {
		h.Annotations = nil
	}
	if v < 56 {
		h.Umask = nil
	}
	if h.PidsLimit != nil && *h.PidsLimit <= 0 {
		h.PidsLimit = nil // no limit, as clients say it
	}
	if h.MemorySwappiness != nil && *h.MemorySwappiness == -1 {
		h.MemorySwappiness = nil // likewise
	}
	for i := range h.Mounts {
		if err := v.createMount(&h.Mounts[i]); err != nil {
			return err
		}
	}
	return nil
}

func (v version) createMount(m *mount.Mount) error {
	if v < 42 {
		if m.Type != mount.TypeVolume {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs {
			m.TmpfsOptions = nil
		}
	}
	for _, o := range []struct {
		set  bool
		name string
		of   mount.Type
	}{
		{m.VolumeOptions != nil, "VolumeOptions", mount.TypeVolume},
		{m.BindOptions != nil, "BindOptions", mount.TypeBind},
		{m.TmpfsOptions != nil, "TmpfsOptions", mount.TypeTmpfs},
	} {
		if o.set && m.Type != o.of && v >= 42 {
			return runner.Errorf(runner.ErrInvalid, "%s must not be specified on mount type %q", o.name, m.Type)
		}
	}
	if m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" && v < 45 {
		return runner.Errorf(runner.ErrInvalid, "VolumeOptions.Subpath needs API v1.45 or newer")
	}
	if m.Type == mount.TypeImage && v < 48 {
		return runner.Errorf(runner.ErrInvalid, `Mount type "Image" needs API v1.48 or newer`)
	}
	if m.Type != mount.TypeBind || v >= 44 {
		return nil
	}
	if m.BindOptions == nil {
		m.BindOptions = &mount.BindOptions{}
	}
	if m.BindOptions.ReadOnlyForceRecursive {
		return runner.Errorf(runner.ErrInvalid, "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
	}
	// What is mounted below a read-only mount used to stay writable.
	m.BindOptions.ReadOnlyNonRecursive = m.ReadOnly
	if v < 42 {
		m.BindOptions.CreateMountpoint = false
	}
	if v < 40 {
		m.BindOptions.NonRecursive = false
	}
	return nil
}

// createEndpoints gives the container-wide hardware address to the endpoint that
// it is meant for.
func (v version) createEndpoints(h *container.HostConfig, endpoints map[string]*network.EndpointSettings, mac network.HardwareAddr) (warnings []string, err error) {
	if v < 44 && len(endpoints) > 1 {
		names := make([]string, 0, len(endpoints))
		for name := range endpoints {
			names = append(names, name)
		}
		slices.Sort(names)
		return nil, runner.Errorf(runner.ErrInvalid, "Container cannot be created with multiple network endpoints: %s", strings.Join(names, ", "))
	}
	for _, e := range endpoints {
		if v < 48 {
			e.GwPriority = 0
		}
		if v < 44 {
			e.MacAddress = nil
		}
	}
	if len(mac) == 0 {
		return nil, nil
	}
	mode := h.NetworkMode
	if mode.IsHost() || mode.IsNone() || mode.IsContainer() {
		return nil, runner.Errorf(runner.ErrInvalid, "conflicting options: mac-address and the network mode")
	}
	e := endpoints[string(mode)]
	switch {
	case e == nil && len(endpoints) == 0:
		e = &network.EndpointSettings{}
		endpoints[string(mode)] = e
	case e == nil && v < 44:
		for _, e = range endpoints { // the only one
		}
	case e == nil:
		return nil, runner.Errorf(runner.ErrInvalid, "unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
	case len(e.MacAddress) > 0 && e.MacAddress.String() != mac.String():
		return nil, runner.Errorf(runner.ErrInvalid, "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	e.MacAddress = mac
	if v >= 44 {
		warnings = []string{"The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."}
	}
	return warnings, nil
}

// update makes of a request what the newest version would have said.
func (v version) update(u *container.UpdateConfig) {
	if v < 40 {
		u.PidsLimit = nil
	}
	if v < 55 { // which ignored them
		u.BlkioWeightDevice = nil
		u.BlkioDeviceReadBps, u.BlkioDeviceWriteBps = nil, nil
		u.BlkioDeviceReadIOps, u.BlkioDeviceWriteIOps = nil, nil
	}
	if u.PidsLimit != nil && *u.PidsLimit <= 0 {
		u.PidsLimit = new(int64) // no limit; nil would keep the one there is
	}
}

// containerList is the answer to a request for the list of containers.
func (v version) containerList(list []container.Summary) []container.Summary {
	for i := range list {
		c := &list[i]
		if v < 52 {
			c.Health = nil
		}
		if v < 46 {
			c.HostConfig.Annotations = nil
		}
		if v < 48 {
			c.ImageManifestDescriptor = nil
		}
	}
	return notNil(list)
}

// inspectedContainer is a container with the fields that left the API with 1.52.
type inspectedContainer struct {
	*container.InspectResponse

	GraphDriver     *storage.DriverData
	Storage         *storage.Storage `json:",omitempty"` // always nil: since 1.52
	Config          *inspectedConfig
	NetworkSettings *inspectedNetworks
}

type inspectedConfig struct {
	*container.Config

	OnBuild []string // even if there is none
}

type inspectedNetworks struct {
	Bridge                 string
	SandboxID              string
	SandboxKey             string
	Ports                  network.PortMap
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             network.HardwareAddr
	Networks               map[string]*network.EndpointSettings
}

// container is the answer to a request to inspect a container.
func (v version) container(c *container.InspectResponse) any {
	if v >= 52 {
		return c
	}
	if v < 48 {
		c.ImageManifestDescriptor = nil
	}
	out := &inspectedContainer{InspectResponse: c, GraphDriver: c.GraphDriver}
	if out.GraphDriver == nil {
		out.GraphDriver = &storage.DriverData{Name: c.Driver}
	}
	if c.Config != nil {
		out.Config = &inspectedConfig{Config: c.Config, OnBuild: c.Config.OnBuild}
	}
	if c.NetworkSettings != nil {
		out.NetworkSettings = v.networks(c)
	}
	return out
}

func (v version) networks(c *container.InspectResponse) *inspectedNetworks {
	n := c.NetworkSettings
	out := &inspectedNetworks{SandboxID: n.SandboxID, SandboxKey: n.SandboxKey, Ports: n.Ports, Networks: n.Networks}
	if v < 45 && len(c.ID) >= 12 {
		out.Networks = make(map[string]*network.EndpointSettings, len(n.Networks))
		for name, e := range n.Networks {
			if container.NetworkMode(name).IsUserDefined() {
				e = e.Copy()
				e.Aliases = append(e.Aliases, c.ID[:12])
			}
			out.Networks[name] = e
		}
	}
	bridge := n.Networks[network.NetworkBridge]
	if bridge == nil {
		return out
	}
	out.EndpointID = bridge.EndpointID
	out.Gateway = bridge.Gateway
	out.GlobalIPv6Address = bridge.GlobalIPv6Address
	out.GlobalIPv6PrefixLen = bridge.GlobalIPv6PrefixLen
	out.IPAddress = bridge.IPAddress
	out.IPPrefixLen = bridge.IPPrefixLen
	out.IPv6Gateway = bridge.IPv6Gateway
	out.MacAddress = bridge.MacAddress
	return out
}

// listedImage is an image with a field that left the API with 1.44.
type listedImage struct {
	*image.Summary

	VirtualSize *int64 `json:",omitempty"`
}

// imageList is the answer to a request for the list of images.
func (v version) imageList(list []image.Summary) []listedImage {
	out := make([]listedImage, len(list))
	for i := range list {
		s := &list[i]
		out[i].Summary = s
		s.RepoTags, s.RepoDigests = notNil(s.RepoTags), notNil(s.RepoDigests)
		if v < 43 && len(s.RepoTags) == 0 && len(s.RepoDigests) == 0 {
			s.RepoTags, s.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		if v < 44 {
			out[i].VirtualSize = &s.Size
		}
		if v < 48 {
			s.Descriptor = nil
		}
		if v < 51 {
			s.Containers = -1
		}
	}
	return out
}

// inspectedImage is an image with fields that left the API since.
type inspectedImage struct {
	*image.InspectResponse

	// Until 1.52. Parent and DockerVersion are what the old builder wrote.
	Parent        string
	Comment       string
	DockerVersion string
	Author        string
	Config        *imageConfig
	GraphDriver   *storage.DriverData
	Created       string `json:",omitempty"`

	VirtualSize     *int64            `json:",omitempty"` // until 1.44
	Container       *string           `json:",omitempty"` // until 1.45
	ContainerConfig *container.Config `json:",omitempty"` // likewise
}

// imageConfig has the fields that became optional with 1.52, whether they are set
// or not.
type imageConfig struct {
	*dockerspec.DockerOCIImageConfig
	*neverSet

	User       string
	Env        []string
	Cmd        []string
	Volumes    map[string]struct{}
	WorkingDir string
	Entrypoint []string
	OnBuild    []string
	Labels     map[string]string
}

// neverSet are the fields of a container's configuration that an image's had, and
// that left it with 1.50.
type neverSet struct {
	Hostname, Domainname                    string
	AttachStdin, AttachStdout, AttachStderr bool
	Tty, OpenStdin, StdinOnce               bool
	Image                                   string
}

// image is the answer to a request to inspect an image.
func (v version) image(i *image.InspectResponse) any {
	i.RepoTags, i.RepoDigests = notNil(i.RepoTags), notNil(i.RepoDigests)
	if v < 53 {
		i.Identity = nil
	}
	if v >= 52 {
		return i
	}
	if v < 48 {
		i.Descriptor = nil
	}
	out := &inspectedImage{InspectResponse: i, Comment: i.Comment, Author: i.Author, GraphDriver: i.GraphDriver, Created: i.Created}
	if out.GraphDriver == nil {
		out.GraphDriver = &storage.DriverData{Name: "overlayfs"}
	}
	if c := i.Config; c != nil {
		out.Config = &imageConfig{
			DockerOCIImageConfig: c, User: c.User, Env: c.Env, Cmd: c.Cmd, Volumes: c.Volumes,
			WorkingDir: c.WorkingDir, Entrypoint: c.Entrypoint, OnBuild: c.OnBuild, Labels: c.Labels,
		}
		if v < 50 {
			out.Config.neverSet = &neverSet{}
		}
	}
	if v < 44 {
		out.VirtualSize = &i.Size
		if out.Created == "" {
			out.Created = time.Time{}.Format(time.RFC3339Nano)
		}
	}
	if v < 45 {
		out.Container, out.ContainerConfig = new(string), &container.Config{}
	}
	return out
}

// createNetwork makes of a request what the newest version would have said.
func (v version) createNetwork(req *network.CreateRequest) {
	if v < 48 {
		req.EnableIPv4 = nil
	}
}

// connectNetwork makes of a request what the newest version would have said.
func (v version) connectNetwork(req *network.ConnectRequest) {
	e := req.EndpointConfig
	if e == nil {
		return
	}
	if v < 48 {
		e.GwPriority = 0
	}
	if v < 44 {
		e.MacAddress = nil
	}
}

// networkList is the answer to a request for the list of networks.
func (v version) networkList(list []network.Inspect) []network.Inspect {
	for i := range list {
		v.network(&list[i])
		list[i].Status = nil // only of one
	}
	return notNil(list)
}

// network is the answer to a request to inspect a network.
func (v version) network(n *network.Inspect) {
	if v < 52 {
		n.Status = nil
	}
	if n.Containers == nil {
		n.Containers = map[string]network.EndpointResource{}
	}
}

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

// stats makes of a sample what the version has of it.
func (v version) stats(s *container.StatsResponse) {
	if v >= 52 {
		s.OSType = "linux"
	}
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

// notNil makes a list that is empty, and not null, in JSON.
func notNil[E any](list []E) []E {
	if list == nil {
		return []E{}
	}
	return list
}
