package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"google.golang.org/grpc"

	"github.com/berth-registry/berth/internal/boltfile"
	"github.com/berth-registry/berth/runner"
)

// Options configure a Builder.
type Options struct {
	Root string // directory of the cache, on the file system of the image store
	Run  string // directory of what a reboot clears
	// Temp is the directory of this process's temporary files (TMPDIR), which Sweep
	// clears; empty if it is not this process's alone.
	Temp string

	Runtime string // path of the OCI runtime
	Images  Images
	// Hosts are the servers of a registry. Name gives an image's name as a registry
	// is asked for it.
	Hosts docker.RegistryHosts
	Name  func(string) string
	// MayUse returns why steps may not run on an image, or with it: one of the store,
	// by its ID, or, where that is empty, what a registry has for a name with a digest.
	// If it is nil they may with all.
	MayUse func(ctx context.Context, name, id string) error

	Network      Network
	CgroupParent string // above the cgroups of all steps that name no other
	AppArmor     string // profile of steps; empty: none
	DNS          DNS    // of steps; empty: the host's
	// Gateway are the addresses by which steps reach the host: what host-gateway
	// means in --add-host.
	Gateway []netip.Addr

	MaxSize int64 // bytes that the cache may take; 0: a tenth of the disk
	Log     *slog.Logger
}

// DNS is how steps resolve names.
type DNS struct{ Servers, Options, Search []string }

// Network gives steps their network.
type Network interface {
	// Connect makes a network namespace that is connected as the containers of the
	// bridge network are. It lives as long as the file is open; release gives all
	// back.
	Connect(ctx context.Context, id string) (ns *os.File, release func() error, err error)
}

// Builder builds images. Its methods may be called concurrently.
type Builder struct {
	opts     Options
	log      *slog.Logger
	worker   *imageWorker
	control  *control.Controller
	results  solver.CacheManager // what steps have made, by what they are
	sessions *session.Manager
	server   *grpc.Server
	guard    *guard

	mu      sync.Mutex
	solving int                           // builds under way
	cancels map[string]context.CancelFunc // of builds, by their ID

	stop context.CancelFunc
	life func() context.Context // ends with the Builder
	work sync.WaitGroup         // connections and builds
}

// Open opens the cache, or begins one. What an earlier process left of containers
// must have been cleared by Sweep.
func Open(ctx context.Context, o Options) (_ *Builder, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Builder{opts: o, log: o.Log, cancels: map[string]context.CancelFunc{}}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			stop()
		}
	}()
	logTo(o.Log)
	b.life, b.stop = func() context.Context { return life }, stop
	if o.Temp != "" { // containerd's libraries have asked for TMPDIR before it was set
		if err := mount.SetTempMountLocation(o.Temp); err != nil {
			return nil, err
		}
	}
	fresh, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := b.open(life); err != nil {
		if fresh || ctx.Err() != nil {
			return nil, err
		}
		o.Log.WarnContext(ctx, "the build cache cannot be opened: it is begun anew", "error", err)
		if err := discard(o); err != nil {
			return nil, err
		}
		if _, err := prepare(o); err != nil {
			return nil, err
		}
		if err := b.open(life); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// checkDatabases returns an error if one of the databases is not whole.
func checkDatabases(root string) error {
	list, err := filepath.Glob(filepath.Join(root, "*.db"))
	if err != nil {
		return err
	}
	for _, path := range append(list, filepath.Join(root, "snapshots", "metadata.db")) {
		if err := boltfile.Check(path, time.Second); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// prepare makes the directories, and begins the cache anew if what is there
// cannot be trusted.
func prepare(o Options) (fresh bool, err error) {
	trusted, err := trust(o.Root)
	if err == nil && trusted {
		err = checkDatabases(o.Root)
	}
	if err == nil && trusted {
		trusted, err = linksHold(o.Root)
	}
	trusted = trusted && err == nil
	if !trusted {
		if _, serr := os.Stat(o.Root); serr == nil {
			o.Log.Info("the build cache is begun anew: it was not on the disk when the host went down, is damaged, or what it links to has gone", "dir", o.Root, "error", err)
		}
		if err := discard(o); err != nil {
			return false, err
		}
	}
	for _, dir := range []string{o.Root, filepath.Join(o.Root, "contexts"), o.Run, filepath.Join(o.Run, "executor"), filepath.Join(o.Run, "oci")} {
		if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // steps that are not root reach their files through it
			return false, err
		}
	}
	return !trusted, clearDir(filepath.Join(o.Root, "contexts"))
}

// discard removes the cache, and gives up what it has of the image store.
func discard(o Options) error {
	links, _ := Links(o.Root) // what cannot be told is not known to the image store either
	if err := os.RemoveAll(o.Root); err != nil {
		return fmt.Errorf("remove the build cache: %w", err)
	}
	for _, dir := range links {
		o.Images.Unshare(dir)
	}
	return nil
}

func clearDir(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range list {
		if err := os.RemoveAll(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all builds and closes the cache.
func (b *Builder) Close() error {
	b.mu.Lock()
	for _, cancel := range b.cancels {
		cancel()
	}
	b.mu.Unlock()
	b.stop()
	b.server.Stop()
	b.work.Wait()
	settle(b.opts)
	return errors.Join(b.control.Close(), b.worker.close(), b.guard.close(), unmountAll(b.opts), removeRun(b.opts))
}

// Control serves BuildKit's gRPC services on a connection until it or ctx ends:
// the control API, sessions over it, the gateway and health.
func (b *Builder) Control(ctx context.Context, conn net.Conn) error {
	ctx, leave, err := b.join(ctx)
	if err != nil {
		_ = conn.Close()
		return err
	}
	defer leave()
	serve(ctx, b.server, conn, b.log)
	return nil
}

// Session serves builds with what a client has, until the connection or ctx ends.
// meta are the headers of the request, with the session's ID and name and the
// methods that the client serves.
func (b *Builder) Session(ctx context.Context, conn net.Conn, proto string, meta map[string][]string) error {
	if proto != "h2c" {
		_ = conn.Close()
		return runner.Errorf(runner.ErrInvalid, "protocol %s not supported", proto)
	}
	ctx, leave, err := b.join(ctx)
	if err != nil {
		_ = conn.Close()
		return err
	}
	defer leave()
	return b.sessions.HandleConn(ctx, conn, meta)
}

// join ties a request to the life of the Builder.
func (b *Builder) join(ctx context.Context) (context.Context, func(), error) {
	if b.life().Err() != nil {
		return nil, nil, runner.Errorf(runner.ErrUnavailable, "the runner is stopping")
	}
	ctx, cancel := context.WithCancel(ctx)
	b.work.Add(1)
	end := context.AfterFunc(b.life(), cancel)
	return ctx, func() { end(); cancel(); b.work.Done() }, nil
}
