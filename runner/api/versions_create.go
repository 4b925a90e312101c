package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

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
