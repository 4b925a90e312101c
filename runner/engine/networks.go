package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/network"
)

// ListNetworks implements runner/api's Networks.
func (e *Engine) ListNetworks(ctx context.Context, filters runner.Filters) ([]apinetwork.Inspect, error) {
	return e.network.List(ctx, filters)
}

// InspectNetwork implements runner/api's Networks.
func (e *Engine) InspectNetwork(ctx context.Context, ref string) (apinetwork.Inspect, error) {
	return e.network.Inspect(ctx, ref)
}

// CreateNetwork implements runner/api's Networks.
func (e *Engine) CreateNetwork(ctx context.Context, req apinetwork.CreateRequest) (apinetwork.CreateResponse, error) {
	id, err := e.network.Create(ctx, req)
	if err != nil {
		return apinetwork.CreateResponse{}, err
	}
	if n, err := e.network.Resolve(id); err == nil { // it may be gone again
		e.networkEvent(events.ActionCreate, n, "")
	}
	return apinetwork.CreateResponse{ID: id}, nil
}

// RemoveNetwork implements runner/api's Networks.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) error {
	n, err := e.network.Remove(context.WithoutCancel(ctx), ref)
	if err == nil {
		e.networkEvent(events.ActionDestroy, network.Ref{ID: n.ID, Name: n.Name, Driver: n.Driver}, "")
	}
	return err
}

// PruneNetworks implements runner/api's Networks.
func (e *Engine) PruneNetworks(ctx context.Context, filters runner.Filters) (apinetwork.PruneReport, error) {
	var report apinetwork.PruneReport
	if err := filters.Allow("label", "label!", "until"); err != nil {
		return report, err
	}
	before, err := untilFilter(filters)
	if err != nil {
		return report, err
	}
	removed, err := e.network.Prune(ctx, before, func(labels map[string]string) bool {
		return filters.MatchLabels("label", labels) && !hasExcludedLabel(filters, labels)
	})
	for _, n := range removed {
		report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
		e.networkEvent(events.ActionDestroy, network.Ref{ID: n.ID, Name: n.Name, Driver: n.Driver}, "")
	}
	if err == nil {
		e.events.publish(events.Message{
			Type: events.NetworkEventType, Action: events.ActionPrune,
			Actor: events.Actor{Attributes: map[string]string{"reclaimed": "0"}},
		})
	}
	return report, err
}

// findBoth finds a container, whose turn the caller has then, and a network.
func (e *Engine) findBoth(ctx context.Context, ctrRef, netRef string) (c *ctr, n network.Ref, unlock func(), err error) {
	if c, unlock, err = e.findLocked(ctx, ctrRef); err != nil {
		return nil, n, nil, err
	}
	if n, err = e.network.Resolve(netRef); err != nil {
		unlock()
		return nil, n, nil, err
	}
	return c, n, unlock, nil
}

// ConnectNetwork implements runner/api's Networks: a container that runs is
// connected at once, another when it starts.
func (e *Engine) ConnectNetwork(ctx context.Context, ref string, req apinetwork.ConnectRequest) error {
	c, n, unlock, err := e.findBoth(ctx, req.Container, ref)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	rec, st := c.snapshot()
	if err := mayConnect(rec, n); err != nil {
		return err
	}
	es := asked(req.EndpointConfig, n)
	if err := e.network.Check(n.Name, es); err != nil {
		return err
	}
	changed := *rec
	changed.Networks = networksOf(rec)
	changed.Networks[n.Name] = es
	if !st.Running() {
		return e.replaceRecord(c, &changed)
	}
	ns, err := openNetNS(st)
	if err != nil {
		return err
	}
	defer ns.Close()
	given, err := e.network.Join(ctx, network.Request{
		ContainerID: rec.ID, Name: rec.Name, NetNS: ns,
		Networks: map[string]*apinetwork.EndpointSettings{n.Name: es}, Ports: wantedPorts(rec),
	})
	if err != nil {
		return err
	}
	err = e.replaceRecord(c, &changed)
	if err == nil {
		err = e.changeNetworks(c, given)
	}
	if err != nil {
		_, lerr := e.network.Leave(ctx, c.id, n.Name, ns, wantedPorts(rec))
		return errors.Join(err, lerr, e.replaceRecord(c, rec))
	}
	e.networkEvent(events.ActionConnect, n, c.id)
	return nil
}

// DisconnectNetwork implements runner/api's Networks.
func (e *Engine) DisconnectNetwork(ctx context.Context, ref string, req apinetwork.DisconnectRequest) error {
	c, n, unlock, err := e.findBoth(ctx, req.Container, ref)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	rec, st := c.snapshot()
	switch {
	case n.Driver == apinetwork.NetworkHost:
		return conflictingHost()
	case n.Name == apinetwork.NetworkNone && rec.HostConfig.NetworkMode.IsNone():
		return runner.Errorf(runner.ErrInvalid, "container cannot be disconnected from the network none")
	}
	changed := *rec
	changed.Networks = networksOf(rec)
	if _, ok := changed.Networks[n.Name]; !ok {
		return runner.Errorf(runner.ErrForbidden, "container %s is not connected to network %s", c.id, n.Name)
	}
	delete(changed.Networks, n.Name)
	if !st.Running() {
		return e.replaceRecord(c, &changed)
	}
	// On disk first: a daemon that ends before the interface is gone clears it at
	// its next start.
	left := network.Endpoint{Networks: maps.Clone(st.Networks), Ports: st.Ports}
	delete(left.Networks, n.Name)
	if err := e.replaceRecord(c, &changed); err != nil {
		return err
	}
	if err := e.changeNetworks(c, left); err != nil {
		return err
	}
	ns, err := openNetNS(st)
	if err != nil {
		return err
	}
	defer ns.Close()
	left, err = e.network.Leave(ctx, c.id, n.Name, ns, wantedPorts(rec))
	if err != nil {
		return err
	}
	if err := e.changeNetworks(c, left); err != nil {
		return err
	}
	e.networkEvent(events.ActionDisconnect, n, c.id)
	return nil
}

// openNetNS opens the network namespace of a container that runs.
func openNetNS(st runner.State) (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%d/ns/net", st.PID))
}

// netNSPath is where a running container's network namespace is found, if it has
// one of its own.
func netNSPath(rec *runner.Container, st runner.State) string {
	_, path := sandbox(rec, st)
	return path
}

// changeNetworks records what the network gives to a container that runs.
func (e *Engine) changeNetworks(c *ctr, given network.Endpoint) error {
	_, st := c.snapshot()
	before := st.Networks
	st.Networks, st.Ports = given.Networks, given.Ports
	if err := e.change(c, st); err != nil {
		return err
	}
	return e.followNetworks(c, before, given.Networks)
}

// renameEndpoints has others find a container by its new name.
func (e *Engine) renameEndpoints(c *ctr, name string) error {
	given, ok := e.network.Rename(c.id, name)
	if _, st := c.snapshot(); !ok || !st.Running() {
		return nil
	}
	return e.changeNetworks(c, given)
}

func conflictingHost() error {
	return runner.Errorf(runner.ErrInvalid, "container cannot be disconnected from host network or connected to host network")
}

// mayConnect says why a container cannot be in a network beside those it is in.
func mayConnect(rec *runner.Container, n network.Ref) error {
	mode := rec.HostConfig.NetworkMode
	switch {
	case mode.IsContainer(), mode.IsHost():
		return runner.Errorf(runner.ErrInvalid, "container sharing network namespace with another container or host cannot be connected to any other network")
	case n.Driver == apinetwork.NetworkHost:
		return conflictingHost()
	case isNone(rec), n.Name == apinetwork.NetworkNone:
		return runner.Errorf(runner.ErrInvalid, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	return nil
}

// asked is what a request says of an endpoint, without what only the engine says.
func asked(es *apinetwork.EndpointSettings, n network.Ref) *apinetwork.EndpointSettings {
	kept := &apinetwork.EndpointSettings{NetworkID: n.ID}
	if es = es.Copy(); es != nil {
		kept.IPAMConfig, kept.Links, kept.Aliases = es.IPAMConfig, es.Links, es.Aliases
		kept.DriverOpts, kept.GwPriority, kept.MacAddress = es.DriverOpts, es.GwPriority, es.MacAddress
	}
	return kept
}

// shareByID names the container whose network is to be shared by its ID: it may get
// another name. One that is not there yet is looked for by its name at each start.
func (e *Engine) shareByID(hc *container.HostConfig) {
	if c, err := e.find(hc.NetworkMode.ConnectedContainer()); err == nil {
		hc.NetworkMode = container.NetworkMode("container:" + c.id)
	}
}

// wantedNetworks is what a request to create a container says of its networks, by
// their names. A network that is not there is runner.ErrInvalid: not found would
// make the docker command pull the image.
func (e *Engine) wantedNetworks(hc *container.HostConfig, nc *apinetwork.NetworkingConfig) (map[string]*apinetwork.EndpointSettings, error) {
	if hc.NetworkMode.IsContainer() {
		return nil, nil
	}
	wanted := map[string]*apinetwork.EndpointSettings{}
	add := func(name string, es *apinetwork.EndpointSettings) error {
		n, err := e.network.Resolve(name)
		if err != nil {
			return runner.Errorf(runner.ErrInvalid, "%s", err)
		}
		if _, twice := wanted[n.Name]; twice && es == nil {
			return nil
		}
		wanted[n.Name] = asked(es, n)
		if err := e.network.Check(n.Name, wanted[n.Name]); err != nil {
			return fmt.Errorf("invalid endpoint settings:\n%w", err)
		}
		return nil
	}
	if nc != nil {
		for _, name := range slices.Sorted(maps.Keys(nc.EndpointsConfig)) {
			es := nc.EndpointsConfig[name]
			if name == apinetwork.NetworkDefault {
				name = hc.NetworkMode.NetworkName()
			}
			if err := add(name, es); err != nil {
				return nil, err
			}
		}
	}
	if err := add(hc.NetworkMode.NetworkName(), nil); err != nil {
		return nil, err
	}
	for name := range wanted {
		if len(wanted) > 1 && (name == apinetwork.NetworkHost || name == apinetwork.NetworkNone) {
			return nil, runner.Errorf(runner.ErrInvalid, "container cannot be connected to multiple networks with one of the networks in private (%s) mode", name)
		}
	}
	return wanted, nil
}

// networksOf is what is asked of a container's networks, in a map of its own.
func networksOf(rec *runner.Container) map[string]*apinetwork.EndpointSettings {
	networks := maps.Clone(rec.Networks)
	if networks == nil {
		networks = map[string]*apinetwork.EndpointSettings{}
	}
	return networks
}

// firstNetwork is the name of the network that the container was created for.
func (e *Engine) firstNetwork(rec *runner.Container) string {
	name := rec.HostConfig.NetworkMode.NetworkName()
	if n, err := e.network.Resolve(name); err == nil {
		return n.Name
	}
	return name
}

// networkRequest is what a container that starts asks of the network.
func (e *Engine) networkRequest(rec *runner.Container, ns *os.File) network.Request {
	req := network.Request{
		ContainerID: rec.ID, Name: rec.Name, Hostname: rec.Config.Hostname, NetNS: ns,
		First: e.firstNetwork(rec), Networks: rec.Networks, Ports: wantedPorts(rec), DNS: rec.HostConfig.DNS,
	}
	if len(req.Networks) == 0 { // it was taken out of all
		req.Networks = map[string]*apinetwork.EndpointSettings{req.First: {}}
	}
	return req
}

// networkEvents tells that a container was connected or disconnected by its start
// or end.
func (e *Engine) networkEvents(action events.Action, rec *runner.Container, st runner.State) {
	networks := st.Networks
	if networks == nil {
		networks = rec.Networks // host and none give nothing
	}
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		if n, err := e.network.Resolve(name); err == nil {
			e.networkEvent(action, n, rec.ID)
		}
	}
}

func (e *Engine) networkEvent(action events.Action, n network.Ref, containerID string) {
	attrs := map[string]string{"name": n.Name, "type": n.Driver}
	if containerID != "" {
		attrs["container"] = containerID
	}
	e.events.publish(events.Message{
		Type: events.NetworkEventType, Action: action,
		Actor: events.Actor{ID: n.ID, Attributes: attrs},
	})
}
