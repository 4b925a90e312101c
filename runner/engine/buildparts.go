package engine

import (
	"context"
	"net/http"
	"os"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner/build"
	"github.com/berth-registry/berth/runner/images"
	"github.com/berth-registry/berth/runner/network"
)

// buildImages is the image store as builds use it.
type buildImages struct{ *images.Store }

// Image implements build.Images.
func (s buildImages) Image(ctx context.Context, ref string) (build.Image, error) {
	c, err := s.Content(ctx, ref)
	if err != nil {
		return build.Image{}, err
	}
	img := build.Image{ID: c.ID, Manifest: c.Manifest.Digest, Config: c.Config, Platform: c.Platform, DiffIDs: c.DiffIDs, Layers: c.Layers}
	if named, err := s.ParseRef(ref); err == nil {
		for _, n := range c.Names {
			if d, ok := n.(reference.Canonical); ok && d.Name() == named.Name() {
				img.Roots = append(img.Roots, d.Digest())
			}
		}
	}
	return img, nil
}

// Add implements build.Images.
func (s buildImages) Add(ctx context.Context, b build.Built) (string, error) {
	built := images.Built{Config: b.Config, Names: b.Names}
	for _, l := range b.Layers {
		built.Layers = append(built.Layers, images.BuiltLayer(l))
	}
	return s.AddBuilt(ctx, built)
}

// registryHosts are the servers of a registry, as containerd's client has them.
func (e *Engine) registryHosts(domain string) ([]docker.RegistryHost, error) {
	endpoints, err := e.remote.Endpoints(e.lifetime(), domain)
	if err != nil {
		return nil, err
	}
	var hosts []docker.RegistryHost
	for _, ep := range endpoints {
		h := docker.RegistryHost{
			Client: &http.Client{Transport: ep.Transport}, Scheme: ep.Scheme, Host: ep.Host, Path: "/v2/" + ep.Prefix,
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}
		if !ep.Mirror {
			h.Capabilities |= docker.HostCapabilityPush
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// registryName is an image's name with the registry where it is.
func (e *Engine) registryName(ref string) string {
	named, err := e.images.ParseRef(ref)
	if err != nil {
		return ref
	}
	return named.String()
}

// buildNetwork connects steps of builds to the bridge network.
type buildNetwork struct{ e *Engine }

// Connect implements build.Network.
func (n buildNetwork) Connect(ctx context.Context, id string) (*os.File, func() error, error) {
	ns, err := network.NewNetNS()
	if err != nil {
		return nil, nil, err
	}
	_, err = n.e.network.Connect(ctx, network.Request{
		ContainerID: id, Name: "build-" + id[:12], NetNS: ns,
		Networks: map[string]*apinetwork.EndpointSettings{apinetwork.NetworkBridge: {}},
	})
	if err != nil {
		_ = ns.Close()
		return nil, nil, err
	}
	return ns, func() error { return n.e.network.Disconnect(context.WithoutCancel(ctx), id) }, nil
}
