package runner

import "github.com/moby/moby/api/types/network"

// Service is what is reached under the same ports of the host and the same names
// whichever containers are behind it.
type Service struct {
	Name string // unique among the services of an owner
	// Ports are published on the host, as HostConfig.PortBindings of a container are.
	// A binding without a port is given one, which it keeps as long as the service
	// has it.
	Ports network.PortMap
	// Aliases are the names that the backends have for containers of a network, by the
	// network's name.
	Aliases  map[string][]string
	Backends []Backend
}

// Backend is a container behind a service. It need not run: while it has no address
// it gets no traffic.
type Backend struct {
	Container string // full ID
	// Weight is its part of the new connections, in proportion to the others'. With 0 it
	// gets none, and no name either; established connections stay.
	Weight int
}
