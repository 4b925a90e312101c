package deploy

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// fake is an engine in memory, on the time of a bubble, whose state can be copied at
// each step. How a container behaves is in the labels of its specification: see
// behaviour.
type fake struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer
	networks   map[string]map[string]string // labels
	volumes    map[string]map[string]string
	traffic    map[string][]runner.Service
	conns      map[string]int
	pulled     []string
	n          int
	taken      string // port of the host that somebody else has
	listeners  []chan events.Message
	step       func(call string) // called, unlocked, before and after each change
	broken     []string          // rules that were broken
	fails      func(call string) error
}

type fakeContainer struct {
	id, name string
	req      runner.CreateRequest
	state    container.ContainerState
	health   container.HealthStatus
	started  time.Time
	run      int // number of the run
	exit     int
	waiters  []chan container.WaitResponse
}

// The labels that say how a container behaves.
const (
	readyAfter = "ready-after" // the check passes when it has run so long
	exitAfter  = "exit-after"  // it ends by itself
	exitCode   = "exit-code"
	startFails = "start-fails"
	stopTakes  = "stop-takes"
)

func newFake() *fake {
	return &fake{
		containers: map[string]*fakeContainer{}, networks: map[string]map[string]string{}, volumes: map[string]map[string]string{},
		traffic: map[string][]runner.Service{}, conns: map[string]int{},
	}
}

// copy returns an engine in the same state.
func (f *fake) copy() *fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := newFake()
	c.n = f.n
	for id, one := range f.containers {
		twin := *one
		twin.waiters = nil
		c.containers[id] = &twin
	}
	maps.Copy(c.networks, f.networks)
	maps.Copy(c.volumes, f.volumes)
	for owner, services := range f.traffic {
		c.traffic[owner] = slices.Clone(services)
	}
	return c
}

// resume lets the containers of a copy go on.
func (f *fake) resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.state == container.StateRunning {
			f.arm(c)
		}
	}
}

// failing has calls fail from now on as a function says.
func (f *fake) failing(fails func(call string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = fails
}

// change runs a call that changes something.
func (f *fake) change(call string, do func() error) error {
	if f.step != nil {
		f.step(call)
	}
	f.mu.Lock()
	fails := f.fails
	f.mu.Unlock()
	if fails != nil {
		if err := fails(call); err != nil {
			return err
		}
	}
	f.mu.Lock()
	err := do()
	f.mu.Unlock()
	if f.step != nil {
		f.step(call + " done")
	}
	return err
}

func (f *fake) find(ref string) (*fakeContainer, error) {
	if c := f.containers[ref]; c != nil {
		return c, nil
	}
	for _, c := range f.containers {
		if c.name == ref {
			return c, nil
		}
	}
	return nil, runner.Errorf(runner.ErrNotFound, "No such container: %s", ref)
}

func (f *fake) emit(c *fakeContainer, action events.Action) {
	for _, ch := range f.listeners {
		ch <- events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: c.id, Attributes: c.req.Labels}}
	}
}

func (f *fake) CreateContainer(_ context.Context, req runner.CreateRequest) (resp container.CreateResponse, err error) {
	return resp, f.change("create "+req.Name, func() error {
		if _, err := f.find(req.Name); err == nil {
			return runner.Errorf(runner.ErrConflict, "the name %s is in use", req.Name)
		}
		if !strings.Contains(req.Image, "@sha256:") {
			f.broken = append(f.broken, "image is not pinned: "+req.Image)
		}
		f.n++
		resp.ID = fmt.Sprintf("%064d", f.n)
		f.containers[resp.ID] = &fakeContainer{id: resp.ID, name: req.Name, req: req, state: container.StateCreated, health: container.NoHealthcheck}
		return nil
	})
}

func (f *fake) StartContainer(_ context.Context, ref string) error {
	return f.change("start", func() error {
		c, err := f.find(ref)
		if err != nil {
			return err
		}
		if c.state == container.StateRunning {
			return runner.Errorf(runner.ErrNotModified, "already started")
		}
		if c.req.Labels[startFails] != "" {
			return runner.Errorf(runner.ErrInvalid, "exec: not found")
		}
		if f.leads(c.id) && f.others(c.id) {
			f.broken = append(f.broken, "a container is started that has traffic already: "+c.name)
		}
		c.state, c.started = container.StateRunning, time.Now()
		c.run++
		if checks(c.req.Healthcheck) {
			c.health = container.Starting
		}
		f.arm(c)
		f.emit(c, events.ActionStart)
		return nil
	})
}

// arm has a container end when its time comes.
func (f *fake) arm(c *fakeContainer) {
	d, err := time.ParseDuration(c.req.Labels[exitAfter])
	if err != nil {
		return
	}
	run := c.run
	time.AfterFunc(d-time.Since(c.started), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.run == run && c.state == container.StateRunning {
			code := 0
			_, _ = fmt.Sscan(c.req.Labels[exitCode], &code)
			f.end(c, code)
		}
	})
}

func (f *fake) end(c *fakeContainer, code int) {
	c.state, c.exit = container.StateExited, code
	for _, w := range c.waiters {
		w <- container.WaitResponse{StatusCode: int64(code)}
	}
	c.waiters = nil
	f.emit(c, events.ActionDie)
}

// leads says whether the traffic goes to a container.
func (f *fake) leads(id string) bool {
	for _, services := range f.traffic {
		for _, s := range services {
			if slices.ContainsFunc(s.Backends, func(b runner.Backend) bool { return b.Container == id && b.Weight > 0 }) {
				return true
			}
		}
	}
	return false
}

// others says whether others that are ready have the traffic of a container's service.
func (f *fake) others(id string) bool {
	for _, services := range f.traffic {
		for _, s := range services {
			if !slices.ContainsFunc(s.Backends, func(b runner.Backend) bool { return b.Container == id }) {
				continue
			}
			for _, b := range s.Backends {
				if c := f.containers[b.Container]; b.Container != id && b.Weight > 0 && c != nil && f.ready(c) {
					return true
				}
			}
		}
	}
	return false
}

func (f *fake) StopContainer(ctx context.Context, ref string, _ runner.StopOptions) error {
	f.mu.Lock()
	if c, err := f.find(ref); err == nil && c.state == container.StateRunning {
		if d, err := time.ParseDuration(c.req.Labels[stopTakes]); err == nil {
			f.mu.Unlock()
			if err := pause(ctx, d); err != nil {
				return err
			}
			f.mu.Lock()
		}
	}
	f.mu.Unlock()
	return f.change("stop", func() error {
		c, err := f.find(ref)
		if err != nil {
			return err
		}
		if c.state != container.StateRunning {
			return runner.Errorf(runner.ErrNotModified, "already stopped")
		}
		if f.leads(c.id) {
			f.broken = append(f.broken, "a container with traffic is stopped: "+c.name)
		}
		f.end(c, 0)
		return nil
	})
}

func (f *fake) RemoveContainer(_ context.Context, ref string, _ runner.RemoveOptions) error {
	return f.change("remove", func() error {
		c, err := f.find(ref)
		if err != nil {
			return err
		}
		if f.leads(c.id) {
			f.broken = append(f.broken, "a container with traffic is removed: "+c.name)
		}
		if c.state == container.StateRunning {
			f.end(c, 137)
		}
		delete(f.containers, c.id)
		return nil
	})
}

func (f *fake) InspectContainer(_ context.Context, ref string, _ bool) (container.InspectResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(ref)
	if err != nil {
		return container.InspectResponse{}, err
	}
	info := container.InspectResponse{
		ID: c.id, Name: "/" + c.name, Config: c.req.Config, HostConfig: c.req.HostConfig,
		State: &container.State{Status: c.state, Running: c.state == container.StateRunning, ExitCode: c.exit, StartedAt: c.started.Format(time.RFC3339Nano)},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"net": {IPAddress: netip.AddrFrom4([4]byte{10, 0, byte(c.run), byte(f.n)})},
		}},
	}
	if c.health != container.NoHealthcheck {
		info.State.Health = &container.Health{Status: c.health}
	}
	return info, nil
}

func (f *fake) ListContainers(_ context.Context, opts runner.ListOptions) ([]container.Summary, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []container.Summary
	for _, c := range f.containers {
		if opts.Filters.MatchLabels("label", c.req.Labels) {
			list = append(list, container.Summary{
				ID: c.id, Names: []string{"/" + c.name}, Labels: c.req.Labels, State: c.state,
				Health: &container.HealthSummary{Status: c.health},
			})
		}
	}
	return list, nil
}

func (f *fake) ContainerLogs(_ context.Context, ref string, _ runner.LogOptions) (runner.Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(ref)
	return runner.Stream{Copy: func(_ context.Context, s runner.Streams) error {
		_, err := fmt.Fprintf(s.Stdout, "begin\nlast words of %s\n", c.name)
		return err
	}, Close: func() {}}, err
}

func (f *fake) WaitContainer(_ context.Context, ref string, until container.WaitCondition) (<-chan container.WaitResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(ref)
	if err != nil {
		return nil, err
	}
	ch := make(chan container.WaitResponse, 1)
	if until == container.WaitConditionNotRunning && c.state != container.StateRunning {
		ch <- container.WaitResponse{StatusCode: int64(c.exit)}
		return ch, nil
	}
	c.waiters = append(c.waiters, ch)
	return ch, nil
}

func (f *fake) ProbeContainer(_ context.Context, ref string) (int, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(ref)
	if err != nil {
		return 0, "", err
	}
	if !checks(c.req.Healthcheck) {
		return 0, "", runner.Errorf(runner.ErrNotFound, "no health check")
	}
	if f.ready(c) {
		return 0, "", nil
	}
	return 1, "not yet", nil
}

// ready says whether the check of a container passes.
func (f *fake) ready(c *fakeContainer) bool {
	after, err := time.ParseDuration(c.req.Labels[readyAfter])
	return err == nil && c.state == container.StateRunning && time.Since(c.started) >= after
}

// setHealth is what the engine's own checks find.
func (f *fake) setHealth(name string, h container.HealthStatus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.find(name)
	if err != nil {
		panic(err)
	}
	c.health = h
	f.emit(c, events.Action("health_status: "+string(h)))
}

func (f *fake) SetTraffic(_ context.Context, owner string, services []runner.Service) (map[string]network.PortMap, error) {
	ports := map[string]network.PortMap{}
	return ports, f.change("traffic", func() error {
		for _, s := range services {
			for _, bindings := range s.Ports {
				if slices.ContainsFunc(bindings, func(b network.PortBinding) bool { return f.taken != "" && b.HostPort == f.taken }) {
					return runner.Errorf(runner.ErrConflict, "port %s is taken", f.taken)
				}
			}
			ports[s.Name] = s.Ports
			f.checkBackends(owner, s)
		}
		f.traffic[owner] = slices.Clone(services)
		return nil
	})
}

// checkBackends notes a service with ports whose backends do not run, unless it had
// none before, or are of two versions.
func (f *fake) checkBackends(owner string, s runner.Service) {
	versions := map[string]bool{}
	for _, b := range s.Backends {
		if c := f.containers[b.Container]; b.Weight > 0 && c != nil {
			versions[c.req.Labels[labelVersion]] = true
		}
	}
	had := true
	for _, before := range f.traffic[owner] {
		if before.Name == s.Name && len(before.Ports) > 0 {
			had = f.runs(before)
		}
	}
	if len(s.Ports) > 0 && len(s.Backends) > 0 && had && !f.runs(s) {
		f.broken = append(f.broken, "no running container has the traffic of "+s.Name)
	}
	if len(versions) > 1 && !strings.HasPrefix(s.Name, "mixed") {
		f.broken = append(f.broken, "two versions have the traffic of "+s.Name)
	}
}

// runs says whether a backend with traffic runs.
func (f *fake) runs(s runner.Service) bool {
	return slices.ContainsFunc(s.Backends, func(b runner.Backend) bool {
		c := f.containers[b.Container]
		return b.Weight > 0 && c != nil && c.state == container.StateRunning
	})
}

func (f *fake) Traffic(_ context.Context, owner string) ([]runner.Service, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.traffic[owner]), nil
}

func (f *fake) Connections(_ context.Context, id string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns[id], nil
}

func (f *fake) PullImage(_ context.Context, req runner.PullRequest, _ runner.Progress) error {
	return f.change("pull", func() error {
		if strings.Contains(req.Ref, "nowhere") {
			return runner.Errorf(runner.ErrNotFound, "manifest unknown")
		}
		f.pulled = append(f.pulled, req.Ref)
		return nil
	})
}

// InspectImage has every image but those to be pulled, whose digest is made of the
// name.
func (f *fake) InspectImage(_ context.Context, ref, _ string, _ bool) (image.InspectResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if (strings.Contains(ref, "nowhere") || strings.Contains(ref, "remote")) && !slices.Contains(f.pulled, ref) {
		return image.InspectResponse{}, runner.Errorf(runner.ErrNotFound, "No such image: %s", ref)
	}
	return image.InspectResponse{ID: digestOf("id " + ref).String(), RepoDigests: []string{"other@" + digestOf("other").String(), repository(ref) + "@" + digestOf(ref).String()}}, nil
}

func (f *fake) CreateNetwork(_ context.Context, req network.CreateRequest) (network.CreateResponse, error) {
	return network.CreateResponse{}, f.change("network", func() error {
		f.networks[req.Name] = req.Labels
		return nil
	})
}

func (f *fake) InspectNetwork(_ context.Context, ref string) (network.Inspect, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	labels, ok := f.networks[ref]
	if !ok {
		return network.Inspect{}, runner.Errorf(runner.ErrNotFound, "network %s not found", ref)
	}
	return network.Inspect{Network: network.Network{Name: ref, Labels: labels}}, nil
}

func (f *fake) ListNetworks(_ context.Context, filters runner.Filters) ([]network.Inspect, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []network.Inspect
	for name, labels := range f.networks {
		if filters.MatchLabels("label", labels) {
			list = append(list, network.Inspect{Network: network.Network{Name: name, Labels: labels}})
		}
	}
	return list, nil
}

func (f *fake) RemoveNetwork(_ context.Context, ref string) error {
	return f.change("remove network", func() error {
		delete(f.networks, ref)
		return nil
	})
}

func (f *fake) CreateVolume(_ context.Context, req volume.CreateRequest) (volume.Volume, error) {
	return volume.Volume{}, f.change("volume", func() error {
		f.volumes[req.Name] = req.Labels
		return nil
	})
}

func (f *fake) InspectVolume(_ context.Context, name string) (volume.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	labels, ok := f.volumes[name]
	if !ok {
		return volume.Volume{}, runner.Errorf(runner.ErrNotFound, "get %s: no such volume", name)
	}
	return volume.Volume{Name: name, Labels: labels}, nil
}

func (f *fake) ListVolumes(_ context.Context, filters runner.Filters) (volume.ListResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []volume.Volume
	for name, labels := range f.volumes {
		if filters.MatchLabels("label", labels) {
			list = append(list, volume.Volume{Name: name, Labels: labels})
		}
	}
	return volume.ListResponse{Volumes: list}, nil
}

func (f *fake) RemoveVolume(_ context.Context, name string, _ bool) error {
	return f.change("remove volume", func() error {
		delete(f.volumes, name)
		return nil
	})
}

func (f *fake) Events(ctx context.Context, _, _ time.Time, _ runner.Filters) iter.Seq[events.Message] {
	ch := make(chan events.Message, 1000)
	f.mu.Lock()
	f.listeners = append(f.listeners, ch)
	f.mu.Unlock()
	return func(yield func(events.Message) bool) {
		for {
			select {
			case e := <-ch:
				if !yield(e) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}
