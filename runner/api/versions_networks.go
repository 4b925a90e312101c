package api

import (
	"github.com/moby/moby/api/types/network"
)

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
