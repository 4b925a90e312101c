package engine

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/logs"
	"github.com/berth-registry/berth/runner/network"
)

// StartContainer implements runner/api's Containers.
func (e *Engine) StartContainer(ctx context.Context, ref string) error {
	c, unlock, err := e.findLocked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	// What has begun is brought to an end, whether or not the client stays.
	ctx = context.WithoutCancel(ctx)
	switch _, st := c.snapshot(); st.Status {
	case container.StateRunning:
		return runner.Errorf(runner.ErrNotModified, "container %s is already running", c.id)
	case container.StatePaused:
		return runner.Errorf(runner.ErrConflict, "cannot start a paused container, try unpause instead")
	default:
	}
	c.cancelRetry()
	c.startAnew()
	return e.startOrRemove(ctx, c)
}

// startAnew forgets the tries of the restart policy: a user starts the container.
func (c *ctr) startAnew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries, c.state.RestartCount = 0, 0
}

// startOrRemove starts a container whose turn the caller has. One that is to be
// removed at its end is removed if it cannot even start.
func (e *Engine) startOrRemove(ctx context.Context, c *ctr) error {
	err := e.start(ctx, c)
	if err == nil {
		return nil
	}
	if rec, _ := c.snapshot(); rec.HostConfig.AutoRemove && !c.kept() {
		if err := e.remove(ctx, c, true); err != nil {
			e.log.ErrorContext(ctx, "remove a container that did not start", "container", c.id, "error", err)
		}
	}
	return err
}

// start brings a container up: network namespace, files, process, network,
// clients, and only then the user's command. If a step fails, all are undone.
func (e *Engine) start(ctx context.Context, c *ctr) error {
	if err := c.may(containers.Start); err != nil {
		return err
	}
	rec, before := c.snapshot()
	next := before
	err := e.mayStart(ctx, rec)
	if err == nil {
		rec, err = e.withLinks(ctx, e.likeItsNetwork(rec))
	}
	if err == nil {
		next, err = e.launch(ctx, c, rec, before)
	}
	if err == nil {
		e.watchHealth(c, c.begin(next))
		e.followLinks(ctx, c)
		e.connectClients(ctx, c)
		e.networkEvents(events.ActionConnect, rec, next)
		e.containerEvent(c, events.ActionStart)
		return nil
	}
	failed := before
	if failed.Status == container.StateRestarting {
		failed.Status = container.StateExited
	}
	failed.ExitCode, failed.Error = startCode(err), err.Error()
	// On disk before what there is of the run is cleared: a daemon that finds it
	// running, and nothing of it, takes it for lost.
	if saveErr := e.store.SaveState(c.id, failed); saveErr != nil {
		e.log.ErrorContext(ctx, "save the state of a container", "container", c.id, "error", saveErr)
	}
	e.tearDown(ctx, c.id)
	c.set(failed)
	c.failClients(err)
	return err
}

// startCode is the exit code of a container whose command could not be started.
func startCode(err error) int {
	text := err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		return 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"):
		return 126
	default:
		return 128
	}
}

// launch makes everything that a run of the container consists of and starts its
// command. It returns the state of the running container, which is on disk.
func (e *Engine) launch(ctx context.Context, c *ctr, rec *runner.Container, before runner.State) (runner.State, error) {
	if err := e.openLog(ctx, rec); err != nil {
		return before, err
	}
	var netns *os.File
	remapped := e.remapped(rec)
	if hasOwnNetwork(rec) && !remapped {
		var err error
		if netns, err = network.NewNetNS(); err != nil {
			return before, err
		}
		// The container's processes keep the namespace; the network is done with
		// the file when launch returns.
		defer netns.Close()
	}
	files, err := e.prepareFiles(rec)
	if err != nil {
		return before, err
	}
	next := before
	next.Status, next.Error, next.ExitCode, next.OOMKilled, next.StoppedByUser = container.StateRunning, "", 0, false, false
	next.Networks, next.Ports = nil, nil

	// The container is created while its network is set up: neither needs the
	// other before the command starts.
	work, workCtx := errgroup.WithContext(ctx)
	create := func() error {
		proc, err := e.createProcess(workCtx, rec, files, netns)
		next.PID, next.MonitorPID = proc.PID, proc.MonitorPID
		return err
	}
	if remapped {
		if err := create(); err != nil {
			return before, err
		}
		if netns, err = ownNetNS(rec, next.PID); err != nil {
			return before, err
		}
		defer netns.Close()
	} else {
		work.Go(create)
	}
	var endpoint network.Endpoint
	if netns != nil && !isNone(rec) {
		work.Go(func() (err error) {
			endpoint, err = e.network.Connect(ctx, e.networkRequest(rec, netns))
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return before, err
	}
	next.Networks, next.Ports = endpoint.Networks, endpoint.Ports
	if err := e.fillHosts(rec, files, next.Networks); err != nil {
		return before, err
	}
	next.StartedAt = time.Now().UTC()
	// From here on the state says running: a daemon that ends now and finds
	// that the command was not started clears it (recover.go).
	if err := e.store.SaveState(rec.ID, next); err != nil {
		return before, err
	}
	if err := e.watchLog(ctx, rec); err != nil {
		return before, err
	}
	e.connectClients(ctx, c)
	return next, e.shim.Start(ctx, rec.ID)
}

// createProcess makes the process of the container, which waits for Start.
func (e *Engine) createProcess(ctx context.Context, rec *runner.Container, files spec.Files, netns *os.File) (shim.Process, error) {
	rec, mounts, err := e.mountVolumes(ctx, rec)
	if err != nil {
		return shim.Process{}, err
	}
	defer mounts.close()
	in, err := e.specInput(rec, files)
	defer in.close()
	if err != nil {
		return shim.Process{}, err
	}
	in.IsFile, in.SourceOptions = mounts.isFile, mounts.options
	s, err := spec.Build(in.Input)
	if err != nil {
		return shim.Process{}, err
	}
	if err := e.devices.Inject(s, rec.HostConfig.DeviceRequests); err != nil {
		return shim.Process{}, err
	}
	logOpts, err := e.logOptions(rec.HostConfig.LogConfig)
	if err != nil {
		return shim.Process{}, err
	}
	req := shim.CreateRequest{
		ID:      rec.ID,
		Spec:    s,
		Runtime: rec.HostConfig.Runtime,
		Rootfs:  e.rootfsOf(rec),
		LogMax:  logOpts.MonitorLimit(),
		Stdin:   rec.Config.OpenStdin,
		// With a terminal the end of a client must not hang up on the command.
		StdinOnce: rec.Config.StdinOnce && !rec.Config.Tty,
		NetNS:     netns,
		Shm:       in.shm,
		Mounts:    mounts.byDestination,
	}
	if logOpts.Driver != logs.DriverNone {
		req.LogPath = e.logPath(rec.ID)
	}
	learn := spec.FilterKey{}
	if e.shim.TakesFilters(rec.HostConfig.Runtime) {
		learn = e.filters.Use(s)
	}
	proc, err := e.shim.Create(ctx, req)
	if err == nil {
		e.filters.Learn(learn, e.shim.FilterFile(rec.ID))
	}
	return proc, err
}

func (e *Engine) rootfsOf(rec *runner.Container) shim.Rootfs {
	return shim.Rootfs{Lower: rec.Lower, Upper: e.store.Upper(rec.ID), Work: e.store.Work(rec.ID)}
}

// tearDown removes what a run of a container has outside its directory. It can
// be repeated.
func (e *Engine) tearDown(ctx context.Context, id string) {
	var work errgroup.Group
	work.Go(func() error { return e.shim.Delete(ctx, id) })
	work.Go(func() error { return e.network.Disconnect(ctx, id) })
	e.keeper.Unwatch(id)
	if err := work.Wait(); err != nil {
		e.log.ErrorContext(ctx, "clear what a container leaves", "container", id, "error", err)
	}
	e.unmountVolumes(ctx, id)
	e.forwarder.End(id)
}

// begin makes the launched run the current one.
func (c *ctr) begin(st runner.State) *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = st
	c.health = nil
	if probeCommand(c.record.Config) != nil {
		c.health = &container.Health{Status: container.Starting}
	}
	c.run = &run{ended: make(chan struct{})}
	return c.run
}
