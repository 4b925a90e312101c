package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// steps runs the containers of steps.
type steps struct {
	executor.Executor
	networks map[pb.NetMode]network.Provider
	parent   string // of cgroups

	mu      sync.Mutex
	running int
	left    map[string]bool // cgroups to be removed when nothing runs
}

func openSteps(o Options) (*steps, error) {
	runtime, err := writeRuntime(o)
	if err != nil {
		return nil, err
	}
	monitor, err := resources.NewMonitor()
	if err != nil {
		return nil, err
	}
	s := &steps{
		parent: o.CgroupParent,
		left:   map[string]bool{},
		networks: map[pb.NetMode]network.Provider{
			pb.NetMode_UNSET: &bridge{o.Network},
			pb.NetMode_HOST:  network.NewHostProvider(),
			pb.NetMode_NONE:  network.NewNoneProvider(),
		},
	}
	s.Executor, err = runcexecutor.New(runcexecutor.Opt{
		Root:                filepath.Join(o.Run, "executor"),
		CommandCandidates:   []string{runtime},
		DefaultCgroupParent: o.CgroupParent,
		ProcessMode:         oci.ProcessSandbox,
		DNS:                 dnsConfig(o.DNS),
		ApparmorProfile:     o.AppArmor,
		ResourceMonitor:     monitor,
	}, s.networks)
	return s, err
}

func dnsConfig(d DNS) *oci.DNSConfig {
	if len(d.Servers)+len(d.Options)+len(d.Search) == 0 {
		return nil
	}
	return &oci.DNSConfig{Nameservers: d.Servers, Options: d.Options, SearchDomains: d.Search}
}

// Run implements executor.Executor.
func (s *steps) Run(ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo, started chan<- struct{}) (resourcestypes.Recorder, error) {
	parent := process.Meta.CgroupParent
	if parent == "" {
		parent = s.parent
	}
	defer s.enter(parent)()
	rec, err := s.Executor.Run(ctx, id, root, mounts, process, started)
	if rec != nil {
		// The container is removed behind it, and its cgroup with it.
		if werr := rec.Wait(); err == nil {
			err = werr
		}
	}
	return rec, err
}

// enter counts a step. When the last has ended, the cgroups above those of
// containers go: BuildKit makes one below each parent, and removes none.
func (s *steps) enter(parent string) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running++
	if parent != s.parent && !hasCgroup(parent) {
		s.left[parent] = true
	}
	s.left[filepath.Join(parent, "buildkit")] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running--; s.running > 0 {
			return
		}
		for _, below := range []bool{true, false} { // the lower ones first
			for path := range s.left {
				if (filepath.Base(path) == "buildkit") == below {
					removeCgroup(path)
				}
			}
		}
		clear(s.left)
	}
}

// cgroups returns where a cgroup may be: version 1 has many hierarchies.
func cgroups(path string) []string {
	dirs, err := filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs"))
	if err != nil {
		return nil
	}
	list := []string{filepath.Join(cgroupRoot, path)}
	for _, d := range dirs {
		list = append(list, filepath.Join(filepath.Dir(d), path))
	}
	return list
}

func hasCgroup(path string) bool {
	for _, dir := range cgroups(path) {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return true
		}
	}
	return false
}

// removeCgroup removes a cgroup that is empty. It stays if it is not.
func removeCgroup(path string) {
	if filepath.Clean("/"+path) == "/" {
		return
	}
	for _, dir := range cgroups(path) {
		_ = unix.Rmdir(dir)
	}
}

// bridge connects steps as the containers of the bridge network are.
type bridge struct{ net Network }

// New implements network.Provider.
func (b *bridge) New(ctx context.Context, _ string, _ network.NamespaceOptions) (network.Namespace, error) {
	ns, release, err := b.net.Connect(ctx, newID())
	if err != nil {
		return nil, err
	}
	return &namespaceFile{ns, release}, nil
}

// Close implements network.Provider.
func (*bridge) Close() error { return nil }

// namespaceFile is a network namespace that lives as long as a file is open.
type namespaceFile struct {
	file    *os.File
	release func() error
}

// Set implements network.Namespace.
func (n *namespaceFile) Set(s *spec) error {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == networkNamespace {
			s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
			return nil
		}
	}
	return errors.New("the step's specification has no network namespace")
}

// Sample implements network.Namespace: nothing is counted.
func (*namespaceFile) Sample() (*resourcestypes.NetworkSample, error) { return nil, nil } //nolint:nilnil // the interface allows it

// Close implements network.Namespace.
func (n *namespaceFile) Close() error { return errors.Join(n.release(), n.file.Close()) }

