package engine

import (
	"os"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/devices"
	"github.com/berth-registry/berth/runner/images"
)

// newRecord makes of a request and an image what the container will be.
func (e *Engine) newRecord(req runner.CreateRequest, img images.Image) (*runner.Container, []string, error) {
	hc := hostConfig(req.HostConfig)
	hc.LogConfig = e.logConfig(hc.LogConfig)
	if err := e.checkHostConfig(hc); err != nil {
		return nil, nil, err
	}
	warnings, err := spec.Validate(e.specHost(), req.Config, hc, req.NetworkingConfig)
	if err != nil {
		return nil, nil, err
	}
	cfg, path, args, err := spec.MergeImage(req.Config, img.Config.Config)
	if err != nil {
		return nil, nil, err
	}
	mounts, inherited, err := e.mountPoints(cfg, hc)
	if err != nil {
		return nil, nil, err
	}
	id := newID()
	if cfg.Hostname == "" {
		cfg.Hostname = id[:12]
		if hc.NetworkMode.IsHost() || hc.UTSMode.IsHost() {
			if cfg.Hostname, err = os.Hostname(); err != nil {
				return nil, nil, err
			}
		}
	}
	manifest := img.Manifest
	rec := &runner.Container{
		ID:         id,
		Created:    time.Now().UTC(),
		Path:       path,
		Args:       args,
		ImageID:    img.ID,
		Manifest:   &manifest,
		Platform:   img.Config.OS,
		Config:     cfg,
		HostConfig: hc,
		Mounts:     mounts,
		Inherited:  inherited,
	}
	e.shareByID(hc)
	if err := e.resolveLinks(hc); err != nil {
		return nil, nil, err
	}
	rec.Networks, err = e.wantedNetworks(hc, req.NetworkingConfig)
	return rec, warnings, err
}

// hostConfig fills in the defaults that Docker shows in an inspection.
func hostConfig(asked *container.HostConfig) *container.HostConfig {
	hc := &container.HostConfig{}
	if asked != nil {
		copied := *asked
		hc = &copied
	}
	if hc.NetworkMode == "" || hc.NetworkMode.IsDefault() {
		hc.NetworkMode = network.NetworkBridge
	}
	if hc.RestartPolicy.Name == "" {
		hc.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	if hc.IpcMode == "" {
		hc.IpcMode = container.IPCModePrivate
	}
	return hc
}

// checkHostConfig refuses what this engine does not do, and what contradicts
// itself.
func (e *Engine) checkHostConfig(hc *container.HostConfig) error {
	if _, err := e.logOptions(hc.LogConfig); err != nil {
		return err
	}
	if err := devices.Check(hc.DeviceRequests); err != nil {
		return err
	}
	if err := container.ValidateRestartPolicy(hc.RestartPolicy); err != nil {
		return runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if hc.AutoRemove && !hc.RestartPolicy.IsNone() {
		return runner.Errorf(runner.ErrInvalid, "can't create 'AutoRemove' container with restart policy")
	}
	return nil
}

func checkPlatform(ref, asked string, img images.Image) error {
	if asked == "" {
		return nil
	}
	want, err := platforms.Parse(asked)
	if err != nil {
		return runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	have := platforms.Normalize(img.Config.Platform)
	if !platforms.Only(want).Match(have) {
		return runner.Errorf(runner.ErrNotFound,
			"image with reference %s was found but its platform (%s/%s) does not match the specified platform (%s)",
			ref, img.Config.OS, img.Config.Architecture, asked)
	}
	return nil
}

// specHost is the host with the runtimes that this engine may use.
func (e *Engine) specHost() spec.Host {
	h := e.host
	h.Runtimes = e.runtimeNames()
	h.Remap = e.userns.Own()
	return h
}

// hasOwnNetwork says whether the container gets a network namespace from us.
func hasOwnNetwork(rec *runner.Container) bool {
	mode := rec.HostConfig.NetworkMode
	return rec.Config.NetworkDisabled || !mode.IsHost() && !mode.IsContainer()
}

func isNone(rec *runner.Container) bool {
	return rec.Config.NetworkDisabled || rec.HostConfig.NetworkMode.IsNone()
}

// wantedPorts is what is to be published: the bindings that were asked for, and
// with -P every exposed port.
func wantedPorts(rec *runner.Container) network.PortMap {
	ports := network.PortMap{}
	for port, bindings := range rec.HostConfig.PortBindings {
		if len(bindings) == 0 {
			bindings = []network.PortBinding{{}}
		}
		ports[port] = bindings
	}
	if !rec.HostConfig.PublishAllPorts {
		return ports
	}
	for port := range rec.Config.ExposedPorts {
		if _, ok := ports[port]; !ok {
			ports[port] = []network.PortBinding{{}}
		}
	}
	return ports
}
