package network

import (
	"os"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// Request asks to connect a container.
type Request struct {
	ContainerID, Name string
	// NetNS is the container's network namespace. It may be nil for the networks
	// host and none.
	NetNS *os.File
	// Networks is what is asked for, by the name of the network: an address
	// (IPAMConfig) or a MAC address may be wished for.
	Networks map[string]*network.EndpointSettings
	// Ports are the bindings asked for. The zero HostIP means every address, IPv4
	// and IPv6; an empty HostPort (or "0") any free port; "8000-8010" the first of
	// them that is free. A port without bindings is returned as it is.
	Ports network.PortMap
}

// Endpoint is what a container was given, as inspect shows it.
type Endpoint struct {
	Networks map[string]*network.EndpointSettings
	Ports    network.PortMap
}

// Attached is a container that was connected before.
type Attached struct {
	ContainerID, Name string
	Endpoint          Endpoint
}

// unsupported returns an error for what is asked of an endpoint and cannot be
// had; it would otherwise be silently ignored.
func unsupported(name string, es *network.EndpointSettings) error {
	switch {
	case len(es.Aliases) > 0:
		return runner.Errorf(runner.ErrInvalid, "network-scoped aliases are only supported for user-defined networks")
	case len(es.Links) > 0:
		return runner.Errorf(runner.ErrNotImplemented, "links are not supported")
	case len(es.DriverOpts) > 0:
		return runner.Errorf(runner.ErrNotImplemented, "driver options of the endpoint in network %s are not supported", name)
	case es.IPAMConfig != nil && len(es.IPAMConfig.LinkLocalIPs) > 0:
		return runner.Errorf(runner.ErrNotImplemented, "link-local addresses are not supported")
	}
	return nil
}
