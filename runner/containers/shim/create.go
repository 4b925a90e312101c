package shim

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// CreateRequest asks for a container.
type CreateRequest struct {
	ID string
	// Spec is written as the bundle's config.json, with Root.Path set and the
	// version that the runtime takes. Linux.CgroupsPath is a path below the root
	// of every hierarchy.
	Spec    *specs.Spec
	Runtime string // name of one of Options; empty is the default
	Rootfs  Rootfs
	// LogPath is where conmon keeps the log, in its k8s-file format; without it
	// none is kept. LogMax bounds it, in bytes: what is beyond begins a new file
	// in place of the old one. 0 is no bound.
	LogPath string
	LogMax  int64
	// Stdin keeps standard input open. With StdinOnce it is closed when the first
	// connection ends or closes its writing side, whether it wrote or not.
	Stdin, StdinOnce bool
	// NetNS is the network namespace to join; nil leaves it to Spec.
	NetNS *os.File
	// Shm is the mount, of OpenShm, that the bind is of whose source has its name;
	// nil is none.
	Shm *os.File
	// Mounts are what binds are of, by their destination and whatever their source:
	// what OpenSubpath and OpenTreeSubpath return.
	Mounts map[string]*os.File
}

// Create makes a container, ready to start: its namespaces, its cgroups and its
// first process, which waits. It returns an error of runner.ErrConflict if the
// ID has a bundle, and of runner.ErrInvalid if the command cannot be run, in the
// words by which the docker command chooses between exit codes 126 and 127. A
// container that could not be made leaves nothing.
func (s *Shim) Create(ctx context.Context, req CreateRequest) (Process, error) {
	if err := req.check(); err != nil {
		return Process{}, err
	}
	b, err := s.newContainer(req)
	if err != nil {
		return Process{}, err
	}
	defer b.op.Unlock()
	p, err := s.create(ctx, b, req)
	if err != nil {
		if derr := s.destroy(context.WithoutCancel(ctx), b); derr != nil {
			s.log.ErrorContext(ctx, "container that could not be made was not cleared", "container", req.ID, "err", derr)
		}
		return Process{}, err
	}
	return p, nil
}

func (req CreateRequest) check() error {
	if err := checkID("container", req.ID); err != nil {
		return err
	}
	if req.Spec == nil || req.Spec.Linux == nil || req.Spec.Process == nil {
		return runner.Errorf(runner.ErrInvalid, "container %s: the specification lacks its linux or process part", req.ID)
	}
	if req.LogPath != "" && (!filepath.IsAbs(req.LogPath) || strings.Contains(req.LogPath, ":")) {
		return runner.Errorf(runner.ErrInvalid, "log path %q: want an absolute path without a colon", req.LogPath)
	}
	return req.Rootfs.check()
}

// newContainer enters a container, with its lock held and its directory made.
func (s *Shim) newContainer(req CreateRequest) (*bundle, error) {
	runtime, err := s.runtimeOf(req.Runtime)
	if err != nil {
		return nil, err
	}
	rec, err := recordFor(runtime, req)
	if err != nil {
		return nil, err
	}
	b := newBundle(req.ID, s.bundleDir(req.ID))
	b.record = rec
	b.op.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[req.ID] != nil {
		return nil, runner.Errorf(runner.ErrConflict, "container %s is there already", req.ID)
	}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, runner.Errorf(runner.ErrConflict, "container %s is there already", req.ID)
		}
		return nil, err
	}
	s.containers[req.ID] = b
	return b, nil
}

func (s *Shim) create(ctx context.Context, b *bundle, req CreateRequest) (Process, error) {
	go s.cgroups.warm()
	s.mu.Lock()
	old := s.dying[b.id]
	s.mu.Unlock()
	if old != nil && !old.monitor.wait(ctx, unmountWait) {
		return Process{}, runner.Errorf(runner.ErrUnavailable, "container %s: its file tree is still being unmounted", b.id)
	}
	spec, linux := *req.Spec, *req.Spec.Linux
	var own spared
	linux.Resources, own = s.spare(b.record.Runtime, linux.Resources)
	spec.Linux, req.Spec = &linux, &spec
	if err := s.writeBundle(b, req); err != nil {
		return Process{}, err
	}
	var p pipes
	sync, err := p.addReader("_OCI_SYNCPIPE")
	if err != nil {
		return Process{}, err
	}
	defer sync.Close()
	monitor, err := s.spawn(b.id, s.createArgs(b, req), b.dir, &p, func() error {
		if err := privateMounts(); err != nil {
			return err
		}
		if err := s.cgroups.hideUnified(); err != nil {
			return err
		}
		if err := protectNull(); err != nil {
			return err
		}
		if err := bindReadOnly(b.record.Runtime.Path, s.runtimeFile(b.record.Runtime)); err != nil {
			return err
		}
		return s.mountAll(req)
	})
	p.closeBut(sync)
	if monitor != nil {
		b.mu.Lock()
		b.monitor = monitor
		b.mu.Unlock()
		err = errors.Join(err, s.watch.addProcess(monitor, func() { s.monitorEnded(b) }))
	}
	if err != nil {
		return Process{}, err
	}
	m, err := readMessage(ctx, sync)
	if err != nil {
		if ctx.Err() != nil {
			return Process{}, ctx.Err()
		}
		monitor.wait(ctx, time.Second)
		return Process{}, createError(b.record, silence(b.dir, err).Error())
	}
	if m.Data <= 0 {
		return Process{}, createError(b.record, m.Message)
	}
	b.findInit()
	err = errors.Join(s.watchInit(b), s.watchOOM(b), own.set(b.record.Cgroup))
	if err != nil {
		return Process{}, err
	}
	if err := ownPipes(m.Data, standardStreams(), req.Spec.Process.User, req.idMaps()); err != nil {
		return Process{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.created = true // its end counts as its exit from now on
	if b.exit != nil {
		s.watch.tell(*b.exit, nil)
	}
	return Process{PID: m.Data, MonitorPID: monitor.pid}, nil
}

// watchInit sees to it that the end of a container's first process becomes known.
func (s *Shim) watchInit(b *bundle) error {
	_, init := b.processes()
	if init == nil {
		return nil
	}
	return s.watch.addProcess(init, func() { s.unstick(b) })
}

// createArgs returns the command line of a container's monitor.
func (s *Shim) createArgs(b *bundle, req CreateRequest) []string {
	args := append(s.monitorArgs(b.id, b.id, b.dir, b.record.Runtime), "--exit-dir", filepath.Join(s.dir, "exits"))
	if req.LogPath == "" {
		args = append(args, "-l", "off")
	} else {
		args = append(args, "-l", "k8s-file:"+req.LogPath)
		if req.LogMax > 0 {
			args = append(args, "--log-size-max", strconv.FormatInt(req.LogMax, 10))
		}
	}
	if req.Spec.Process.Terminal {
		args = append(args, "-t")
	}
	if req.Stdin {
		args = append(args, "-i")
		if !req.StdinOnce {
			args = append(args, "--leave-stdin-open")
		}
	}
	return args
}
