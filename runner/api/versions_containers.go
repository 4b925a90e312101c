package api

import (
	"net/netip"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
)

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

// stats makes of a sample what the version has of it.
func (v version) stats(s *container.StatsResponse) {
	if v >= 52 {
		s.OSType = "linux"
	}
}
