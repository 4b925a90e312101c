package shim

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Options say which programs a Shim runs, and where it keeps its state.
type Options struct {
	Runtime string // "crun", "runc" or a path
	// Runtimes are further ones that a container may ask for, by a name of letters,
	// digits, '-' and '_'. Those of knownRuntimes that are on PATH need not be named.
	Runtimes map[string]Runtime
	Conmon   string // a path; empty is conmon on PATH
	RunDir   string // absolute, at most 70 characters; should not outlive a reboot
	Log      *slog.Logger
}

// Runtime is a program that does as runc does (the command line of OCI runtimes).
type Runtime struct {
	Path string   // or what to look for on PATH
	Args []string // before the command, such as --platform=systrap
}

// Shim runs containers. Its methods may be called concurrently; calls that
// change the same container run one after the other.
type Shim struct {
	dir     string
	conmon  string
	runtime runtimeProgram // for who asks for none
	others  map[string]runtimeProgram
	log     *slog.Logger
	cgroups cgroups
	null    *os.File
	watch   *watcher
	users   namespaces
	ooms    chan string
	stall   time.Duration // see unstick

	mu         sync.Mutex
	containers map[string]*bundle
	dying      map[string]*bundle // deleted, with a monitor that is not gone yet
}

// maxRunDir keeps the path of a console socket within what an address holds.
const maxRunDir = 70

// Open finds the programs, makes the directories and the mount point under
// RunDir, takes up the containers that are there, and begins to watch for exits.
// It finishes deletions that were interrupted. An error about a missing program
// names the package that has it.
func Open(ctx context.Context, o Options) (*Shim, error) {
	if !filepath.IsAbs(o.RunDir) || len(o.RunDir) > maxRunDir {
		return nil, fmt.Errorf("run directory %q: want an absolute path of at most %d characters", o.RunDir, maxRunDir)
	}
	s := &Shim{dir: filepath.Clean(o.RunDir), log: o.Log, stall: stallTime, ooms: make(chan string, oomQueue), containers: map[string]*bundle{}, dying: map[string]*bundle{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.conmon, err = findProgram(o.Conmon, "conmon"); err != nil {
		return nil, err
	}
	if err := s.findRuntimes(ctx, o); err != nil {
		return nil, err
	}
	if s.cgroups, err = findCgroups(); err != nil {
		return nil, err
	}
	dirs := []string{"rootfs", "tmp", "containers", "exits"}
	for r := range s.runtimes() {
		dirs = append(dirs, filepath.Join("oci", r.Name))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o700); err != nil {
			return nil, err
		}
	}
	if err := s.prepareMounts(); err != nil {
		return nil, err
	}
	if s.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if s.watch, err = newWatcher(filepath.Join(s.dir, "exits"), s.log); err != nil {
		_ = s.null.Close()
		return nil, err
	}
	s.watch.start(s.exitAppeared, s.recount)
	if err := s.recover(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close stops watching, and unmounts RunDir/rootfs if no container is left.
// Containers go on.
func (s *Shim) Close() error {
	s.watch.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.dying {
		b.monitor.wait(context.Background(), unmountWait) // it holds the file tree
		b.release()
	}
	for _, b := range s.containers {
		s.unwatchOOM(b)
		b.releaseExecs()
		b.release()
	}
	s.users.close()
	err := s.null.Close()
	if len(s.containers) == 0 {
		if uerr := unix.Unmount(s.mounts(), unix.UMOUNT_NOFOLLOW); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", s.mounts(), uerr))
		}
	}
	clear(s.containers)
	return err
}

// Runtime returns the name and the version of the OCI runtime.
func (s *Shim) Runtime() (name, version string) { return s.runtime.Name, s.runtime.version }

// FilterFile is where crun leaves the seccomp filter that it has compiled for a
// container, from Create to Delete; empty for a container of another runtime.
func (s *Shim) FilterFile(id string) string {
	b, err := s.get(id)
	if err != nil || !b.record.Runtime.direct() {
		return ""
	}
	return filepath.Join(s.stateDir(b.record.Runtime), id, "seccomp.bpf")
}

// TakesFilters says whether a runtime, by its name in Options, takes a compiled
// seccomp filter.
func (s *Shim) TakesFilters(runtime string) bool {
	r, err := s.runtimeOf(runtime)
	return err == nil && r.direct()
}

// Exits gets every exit of a container that was created and of an exec that was
// started. Those of before Open come first. A container's exit is told again
// after each Open until the container is deleted. The channel is closed by Close.
func (s *Shim) Exits() <-chan Exit { return s.watch.out }

// mounts is the private mount; in each monitor's mount namespace the container's
// file tree and the runtime are mounted below it.
func (s *Shim) mounts() string { return filepath.Join(s.dir, "rootfs") }
func (s *Shim) rootfs() string { return filepath.Join(s.mounts(), "tree") }

// runtimeFile is where the runtime's program is in a monitor's mount namespace:
// mounted read-only, so that no container can write to it. A runtime that finds
// itself so does not copy itself first, and starts twice as fast.
func (s *Shim) runtimeFile(r runtimeProgram) string { return filepath.Join(s.mounts(), r.Name) }

func (s *Shim) bundleDir(id string) string { return filepath.Join(s.dir, "containers", id) }
func (s *Shim) exitFile(id string) string  { return filepath.Join(s.dir, "exits", id) }

// get returns a container that is there.
func (s *Shim) get(id string) (*bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.containers[id]; b != nil {
		return b, nil
	}
	return nil, runner.Errorf(runner.ErrNotFound, "No such container: %s", id)
}

// lock returns a container that is there, with its lock held.
func (s *Shim) lock(id string) (*bundle, error) {
	b, err := s.get(id)
	if err != nil {
		return nil, err
	}
	b.op.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] != b { // deleted meanwhile
		b.op.Unlock()
		return nil, runner.Errorf(runner.ErrNotFound, "No such container: %s", id)
	}
	return b, nil
}

// List returns the IDs of the containers that have a bundle under RunDir, in any
// state.
func (s *Shim) List() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.containers))
	for id := range s.containers {
		ids = append(ids, id)
	}
	return ids, nil
}

// runtimeProgram is the OCI runtime that made a container.
type runtimeProgram struct {
	Name, Path string
	Args       []string `json:",omitempty"`
	version    string
}

// direct says that the runtime's state is known well enough to start and to
// delete a container without running it.
func (r runtimeProgram) direct() bool { return filepath.Base(r.Path) == "crun" }

var versionLine = regexp.MustCompile(`(?m)^\S+ version (\S+)`)

var runtimeName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$`)

// findRuntimes finds the default runtime and the others.
func (s *Shim) findRuntimes(ctx context.Context, o Options) (err error) {
	if s.runtime, err = findRuntime(ctx, o.Runtime); err != nil {
		return err
	}
	s.others = map[string]runtimeProgram{}
	for name, asked := range o.Runtimes {
		if !runtimeName.MatchString(name) || slices.Contains([]string{s.rootfs(), s.staging()}, filepath.Join(s.mounts(), name)) {
			return fmt.Errorf("OCI runtime %q: a name has letters, digits, '-', '_' and '.', and is not %q or %q", name,
				filepath.Base(s.rootfs()), filepath.Base(s.staging()))
		}
		r, err := findRuntime(ctx, asked.Path)
		if err != nil {
			return err
		}
		r.Name, r.Args = name, asked.Args
		if name == s.runtime.Name {
			s.runtime = r
			continue
		}
		s.others[name] = r
	}
	s.findKnown(ctx)
	return nil
}

// knownRuntimes are those that are found by their names without being configured.
func knownRuntimes() []string { return []string{"crun", "runc", "youki"} }

// findKnown adds the known runtimes that are installed. One that does not work is
// nothing that anybody has asked for.
func (s *Shim) findKnown(ctx context.Context) {
	for _, name := range knownRuntimes() {
		if _, there := s.others[name]; there || name == s.runtime.Name {
			continue
		}
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		r, err := findRuntime(ctx, name)
		if err != nil {
			s.log.WarnContext(ctx, "an OCI runtime is installed but does not work", "runtime", name, "err", err)
			continue
		}
		s.others[name] = r
	}
}

// Runtimes returns the runtimes that a container may ask for, with their paths, by
// their names.
func (s *Shim) Runtimes() map[string]Runtime {
	all := map[string]Runtime{}
	for r := range s.runtimes() {
		all[r.Name] = Runtime{Path: r.Path, Args: slices.Clone(r.Args)}
	}
	return all
}

// runtimes yields the default runtime and the others.
func (s *Shim) runtimes() iter.Seq[runtimeProgram] {
	return func(yield func(runtimeProgram) bool) {
		if !yield(s.runtime) {
			return
		}
		for _, r := range s.others {
			if !yield(r) {
				return
			}
		}
	}
}

// runtimeOf returns the runtime that a container asks for.
func (s *Shim) runtimeOf(name string) (runtimeProgram, error) {
	if name == "" || name == s.runtime.Name {
		return s.runtime, nil
	}
	if r, ok := s.others[name]; ok {
		return r, nil
	}
	return runtimeProgram{}, runner.Errorf(runner.ErrInvalid, "unknown or invalid runtime name: %s", name)
}

func findRuntime(ctx context.Context, name string) (runtimeProgram, error) {
	path, err := findProgram(name, name)
	if err != nil {
		return runtimeProgram{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return runtimeProgram{}, fmt.Errorf("OCI runtime %s: %w", path, err)
	}
	r := runtimeProgram{Name: filepath.Base(path), Path: path}
	if m := versionLine.FindSubmatch(out); m != nil {
		r.version = string(m[1])
	}
	return r, nil
}

// findProgram returns the absolute path of a program; an error names the
// package of Debian, Ubuntu and Fedora that has it, which is its name.
func findProgram(path, name string) (string, error) {
	if path == "" {
		path = name
	}
	found, err := exec.LookPath(path)
	if err == nil {
		return filepath.Abs(found)
	}
	if strings.Contains(path, "/") {
		return "", fmt.Errorf("program %s: %w", path, err)
	}
	return "", fmt.Errorf("program %s is not installed; the package %s has it: %w", name, name, err)
}
