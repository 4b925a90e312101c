package deploy

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// reserve takes the ports of the host that are new to the stack, before any container
// is started: one that is taken, or a route that the edge does not take, is found while
// all is as it was. They lead nowhere until the switch, which gives them to their
// services. Going back lets go of them.
func (d *deployment) reserve(ctx context.Context) error {
	if err := d.u.m.checkRoutes(ctx, d.to.Stack); err != nil {
		return err
	}
	fresh := newPorts(d.live.services, d.to.Stack)
	if len(fresh) == 0 {
		return nil
	}
	// A service cannot have that name.
	return d.live.set(ctx, runner.Service{Name: fmt.Sprintf("to come, of revision %d", d.number), Ports: fresh})
}

// newPorts returns the published ports of a stack whose numbers the traffic does not
// have. Those that the engine may choose are not among them.
func newPorts(services []runner.Service, stack *Stack) network.PortMap {
	type number struct {
		proto network.IPProtocol
		port  string
	}
	had := map[number]bool{}
	for _, s := range services {
		for port, bindings := range s.Ports {
			for _, b := range bindings {
				if !chosen(b) {
					return nil // which one it was given, and may be asked for, is not known
				}
				had[number{port.Proto(), b.HostPort}] = true
			}
		}
	}
	fresh := network.PortMap{}
	for i := range stack.Services {
		for port, bindings := range stack.Services[i].Ports {
			for _, b := range bindings {
				if chosen(b) && !had[number{port.Proto(), b.HostPort}] && !slices.Contains(fresh[port], b) {
					fresh[port] = append(fresh[port], b)
				}
			}
		}
	}
	return fresh
}

// chosen says whether a binding is of one port.
func chosen(b network.PortBinding) bool {
	n, err := strconv.ParseUint(b.HostPort, 10, 16)
	return err == nil && n > 0
}
