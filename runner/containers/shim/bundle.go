package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// Process names the first process of a container and its monitor; numbers are
// those of the host.
type Process struct{ PID, MonitorPID int }

// record is what is kept of a container beside its bundle's config.json, for
// whoever takes it up after this process. It is written before the monitor is
// started, and never changed.
type record struct {
	Runtime runtimeProgram
	Cgroup  string // path in every hierarchy
	LogPath string
	// OwnPIDs says that the kernel ends all processes with the first.
	OwnPIDs bool
	// Hooks says that the runtime has more to do at start and at deletion.
	Hooks   bool
	Command string // first word, for messages
	IDs     IDMaps // of its own user namespace
}

// bundle is the live handle of a container.
type bundle struct {
	id, dir string

	op       sync.Mutex // held by what changes the container
	finished bool       // its monitor was told to end; guarded by op
	adopted  bool       // made by an earlier process

	mu      sync.Mutex
	record  record
	monitor *process
	init    *process
	created bool  // the runtime is done with create
	exit    *Exit // set once
	execs   map[string]*execution
	conns   map[*Conn]bool
	oom     *oomWatch
	// ended is closed when exit is set.
	ended chan struct{}
}

func newBundle(id, dir string) *bundle {
	return &bundle{id: id, dir: dir, execs: map[string]*execution{}, conns: map[*Conn]bool{}, ended: make(chan struct{})}
}

func (b *bundle) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// release lets go of the container's own processes. The monitors of execs are let
// go of by forgetExec, which takes their status before: their exits may be on their
// way, or they may not have been started yet.
func (b *bundle) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.monitor.release()
	b.init.release()
}

// releaseExecs lets go of the monitors of execs, which go on.
func (b *bundle) releaseExecs() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.execs {
		e.monitor.release()
	}
}

// processes returns the handles of the monitor and of the first process, either
// nil if there is none.
func (b *bundle) processes() (monitor, init *process) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.monitor, b.init
}

// running returns the first process, or an error if it does not run.
func (b *bundle) running() (*process, error) {
	_, init := b.processes()
	if !init.alive() {
		return nil, runner.Errorf(runner.ErrConflict, "container %s is not running", b.id)
	}
	return init, nil
}

// findInit looks for the first process where the runtime noted it. It must be a
// child of the monitor, which is what the number is checked by.
func (b *bundle) findInit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.init != nil || b.monitor == nil {
		return
	}
	monitor := b.monitor.pid
	b.init, _ = openProcess(readPID(filepath.Join(b.dir, "pid")), func(pid int) bool {
		parent, err := parentOf(pid)
		return err == nil && parent == monitor
	})
}

var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,127}$`)

func checkID(kind, id string) error {
	if !validID.MatchString(id) {
		return runner.Errorf(runner.ErrInvalid, "invalid %s ID %q", kind, id)
	}
	return nil
}

// recordFor says what of a request has to be known later.
func recordFor(r runtimeProgram, req CreateRequest) (record, error) {
	rec := record{Runtime: r.forContainer(req.Spec, req.NetNS != nil), LogPath: req.LogPath, OwnPIDs: ownPIDs(req.Spec), Hooks: req.Spec.Hooks != nil, IDs: req.idMaps()}
	if req.Spec.Process != nil && len(req.Spec.Process.Args) > 0 {
		rec.Command = req.Spec.Process.Args[0]
	}
	rec.Cgroup = filepath.Clean("/" + req.Spec.Linux.CgroupsPath)
	if rec.Cgroup == "/" || strings.Contains(rec.Cgroup, ":") {
		return rec, runner.Errorf(runner.ErrInvalid, "cgroup %q of container %s: want a path below the root", req.Spec.Linux.CgroupsPath, req.ID)
	}
	return rec, nil
}

// ownPIDs says whether a container has a PID namespace of its own.
func ownPIDs(spec *specs.Spec) bool {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path == ""
		}
	}
	return false
}

// specVersion is of a specification that every runtime takes: crun 1.8 refuses
// what is not 1.0, and ignores fields that it does not know.
const specVersion = "1.0.2"

// writeBundle writes the files that the runtime and later processes read.
func (s *Shim) writeBundle(b *bundle, req CreateRequest) error {
	spec := *req.Spec
	spec.Version = specVersion
	root := specs.Root{}
	if spec.Root != nil {
		root = *spec.Root
	}
	root.Path = s.rootfs()
	spec.Root = &root
	linux := *spec.Linux
	linux.CgroupsPath = b.record.Cgroup
	spec.Linux = &linux
	spec.Mounts, _ = s.stagedMounts(req)
	if req.NetNS != nil {
		path, err := namespacePath(req.NetNS)
		if err != nil {
			return err
		}
		linux.Namespaces = withNetwork(linux.Namespaces, path)
	}
	if err := writeJSON(b.path("shim.json"), b.record); err != nil {
		return err
	}
	return writeJSON(b.path("config.json"), &spec)
}

// namespacePath names a file of this process so that others can open it.
func namespacePath(f *os.File) (string, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	var path string
	err = conn.Control(func(fd uintptr) { path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) })
	return path, err
}

func withNetwork(namespaces []specs.LinuxNamespace, path string) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: path}}
	for _, ns := range namespaces {
		if ns.Type != specs.NetworkNamespace {
			out = append(out, ns)
		}
	}
	return out
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

func writePID(path string, pid int) error {
	return os.WriteFile(path, []byte(strconv.Itoa(pid)), 0o600)
}
