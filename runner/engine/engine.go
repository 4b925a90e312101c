package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner/containers"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/devices"
	"github.com/berth-registry/berth/runner/images"
	"github.com/berth-registry/berth/runner/images/remote"
	"github.com/berth-registry/berth/runner/logs"
	"github.com/berth-registry/berth/runner/network"
	"github.com/berth-registry/berth/runner/stats"
	"github.com/berth-registry/berth/runner/trust"
	"github.com/berth-registry/berth/runner/volumes"
)

// Options configure an engine.
type Options struct {
	Data string // directory of what is kept; one engine at a time uses it
	Run  string // directory of what a reboot clears

	Version  string                  // of the program, for `docker version`
	Runtime  string                  // name or path of the OCI runtime
	Runtimes map[string]shim.Runtime // further ones, by name
	Conmon   string                  // path of the monitor; empty looks on the PATH
	Init     string                  // path of the program for --init; empty looks on the PATH

	DefaultRegistry string // host for short names; empty is Docker Hub
	Registries      map[string]remote.Host
	CertsDir        string

	Trust []trust.Rule // which images may run; none: all. See SetTrust
	// Login is what signatures of images are fetched with from a registry, by its host
	// in names; nil: nothing.
	Login func(host string) (*registry.AuthConfig, error)

	// UsernsRemap is whose subordinate users and groups those of containers are, as
	// USER[:GROUP] or default; empty is the host's own.
	UsernsRemap string
	CDISpecDirs []string // of the descriptions of devices

	Bridge          string
	Subnet, Subnet6 netip.Prefix

	BuildCacheSize int64 // bytes that the build cache may take; 0: a tenth of the disk

	LogMaxSize   int64             // bytes a container's log file may have, unless it says otherwise
	LogMaxFile   int               // files of a log
	LogDriver    string            // of containers that ask for none; empty is json-file
	LogOpts      map[string]string // of the containers with that driver
	LogMaxUnsent int64             // bytes of a log that may wait for its server; 0 for the default
	StopTimeout  time.Duration

	Log *slog.Logger
}

// TempDir is a directory below Data for temporary files of the process, which Open
// clears and the caller may make and use from then on.
func (o Options) TempDir() string { return filepath.Join(o.Data, "tmp") }

// Engine runs containers. It implements runner/api's Engine.
type Engine struct {
	opts     Options
	log      *slog.Logger
	instance string
	started  time.Time
	unlock   func() error

	host      spec.Host
	userns    spec.UserNamespace // of containers, unless they ask for the host's
	images    *images.Store
	remote    *remote.Client
	trust     *trust.Policy
	store     *containers.Store
	shim      *shim.Shim
	network   *network.Manager
	volumes   *volumes.Store
	devices   *devices.Registry
	keeper    *logs.Keeper
	forwarder *logs.Forwarder
	stats     *stats.Sampler
	events    *eventLog

	filters spec.Filters

	mu         sync.RWMutex
	containers map[string]*ctr   // by ID
	names      map[string]string // ID by name

	hosts    sync.Mutex // held while an /etc/hosts is changed
	execs    *execTable
	building lazyBuilder
	work     *gate // what changes containers, and what goes on by itself
	stop     context.CancelFunc
	// lifetime's context ends with the engine: for work that belongs to no request.
	lifetime func() context.Context

	measuring chan struct{} // held by who measures what is taken of the disk
	probes    chan struct{} // held by each health check that is starting
}

// Open starts an engine on its directories: it finds the containers that run,
// and brings what is recorded in line with them. It fails with
// durable.ErrLocked if another engine uses the directory.
func Open(ctx context.Context, opts Options) (_ *Engine, err error) {
	if opts.Data, err = filepath.Abs(opts.Data); err != nil {
		return nil, err
	}
	if opts.Run, err = filepath.Abs(opts.Run); err != nil {
		return nil, err
	}
	unlock, err := durable.Lock(opts.Data)
	if err != nil {
		return nil, err
	}
	// Others find their way through the directory to what they may read, such as
	// a volume; what they may not is closed further down.
	if err := os.Chmod(opts.Data, 0o711); err != nil { //nolint:gosec // as said
		return nil, errors.Join(err, unlock())
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	e := &Engine{
		opts:       opts,
		log:        opts.Log,
		instance:   instanceOf(opts.Data),
		started:    time.Now(),
		unlock:     unlock,
		stop:       stop,
		lifetime:   func() context.Context { return life },
		containers: map[string]*ctr{},
		names:      map[string]string{},
		execs:      newExecTable(),
		measuring:  make(chan struct{}, 1),
		probes:     make(chan struct{}, probesStarting),
		events:     newEventLog(),
		work:       new(gate),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := e.openLeaves(ctx); err != nil {
		return nil, err
	}
	if err := e.recover(ctx); err != nil {
		return nil, fmt.Errorf("find the containers again: %w", err)
	}
	e.work.run(e.watchExits)
	e.reviewTrust()
	return e, nil
}

func (e *Engine) openLeaves(ctx context.Context) (err error) {
	if e.host, err = spec.DetectHost(); err != nil {
		return err
	}
	if err := spec.LoadAppArmor(e.host); err != nil {
		return err
	}
	if err := e.findUsers(); err != nil {
		return err
	}
	e.images, err = images.Open(ctx, images.Options{
		Root:            filepath.Join(e.opts.Data, "images"),
		DefaultRegistry: e.opts.DefaultRegistry,
		Log:             e.log,
		Event:           e.imageEvent,
		Shared:          e.sharedTrees,
	})
	if err != nil {
		return fmt.Errorf("open the image store: %w", err)
	}
	e.remote, err = remote.New(remote.Options{
		DefaultRegistry: e.opts.DefaultRegistry,
		Hosts:           e.opts.Registries,
		CertsDir:        e.opts.CertsDir,
		UserAgent:       "berth-runner/" + e.opts.Version,
		Log:             e.log,
	})
	if err != nil {
		return err
	}
	if err := e.openTrust(ctx); err != nil {
		return err
	}
	if e.store, err = containers.Open(filepath.Join(e.opts.Data, "containers")); err != nil {
		return fmt.Errorf("open the containers: %w", err)
	}
	e.volumes, err = volumes.Open(ctx, volumes.Options{
		Dir:   filepath.Join(e.opts.Data, "volumes"),
		Log:   e.log,
		Event: func(action events.Action, name string) { e.volumeEvent(action, name) },
	})
	if err != nil {
		return fmt.Errorf("open the volumes: %w", err)
	}
	e.shim, err = shim.Open(ctx, shim.Options{
		Runtime:  e.opts.Runtime,
		Runtimes: e.opts.Runtimes,
		Conmon:   e.opts.Conmon,
		RunDir:   e.opts.Run,
		Log:      e.log,
	})
	if err != nil {
		return err
	}
	e.sweepBuilds(ctx)
	e.network, err = network.Open(ctx, network.Options{
		Instance: e.instance,
		StateDir: filepath.Join(e.opts.Data, "network"),
		Subnet:   e.opts.Subnet,
		Subnet6:  e.opts.Subnet6,
		Bridge:   e.opts.Bridge,
		Log:      e.log,
	})
	if err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	if e.devices, err = devices.Open(e.opts.CDISpecDirs); err != nil {
		return fmt.Errorf("read the descriptions of devices: %w", err)
	}
	if err := e.openLogs(); err != nil {
		return err
	}
	e.stats, err = stats.Open(e.log)
	return err
}

// Close ends the engine, when the operations that are under way have come to
// their end. Containers go on running; the next engine on the same directories
// finds them.
func (e *Engine) Close() error {
	e.stop()
	e.events.close()
	e.work.close()
	if e.trust != nil {
		e.trust.Close()
	}
	e.closeLogs()
	if e.stats != nil {
		e.stats.Close()
	}
	errs := []error{e.closeBuilder()}
	if e.shim != nil {
		errs = append(errs, e.shim.Close(), e.removeCgroupParent())
	}
	if e.network != nil {
		errs = append(errs, e.network.Close(context.WithoutCancel(e.lifetime())))
	}
	if e.volumes != nil {
		e.volumes.Close()
	}
	if e.images != nil {
		errs = append(errs, e.images.Close())
	}
	return errors.Join(append(errs, e.unlock())...)
}

// instanceOf names what this engine makes on the host, so that two engines with
// different directories never meet.
func instanceOf(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:3])
}

// all returns the containers there are, in no order.
func (e *Engine) all() []*ctr {
	e.mu.RLock()
	defer e.mu.RUnlock()
	all := make([]*ctr, 0, len(e.containers))
	for _, c := range e.containers {
		all = append(all, c)
	}
	return all
}

// users tells which containers stand on an image, or may do so.
func (e *Engine) users(imageID string) []images.User {
	var users []images.User
	for _, c := range e.all() {
		rec, st := c.snapshot()
		if c.unread != nil || rec.ImageID == imageID || mountsImage(rec, imageID) {
			users = append(users, images.User{ContainerID: rec.ID, Running: st.Running()})
		}
	}
	return users
}

// countByImage counts containers by their image's ID.
func (e *Engine) countByImage() map[string]int {
	count := map[string]int{}
	for _, c := range e.all() {
		rec, _ := c.snapshot()
		count[rec.ImageID]++
	}
	return count
}

// countByStatus counts containers by their status.
func (e *Engine) countByStatus() map[container.ContainerState]int {
	count := map[container.ContainerState]int{}
	for _, c := range e.all() {
		_, st := c.snapshot()
		count[st.Status]++
	}
	return count
}
