package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
)

const cgroupRoot = "/sys/fs/cgroup"

// steps runs the containers of steps.
type steps struct {
	executor.Executor
	networks map[pb.NetMode]network.Provider
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
	s := &steps{networks: map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: adapter{&bridge{o.Network}},
		pb.NetMode_HOST:  adapter{network.NewHostProvider()},
		pb.NetMode_NONE:  adapter{network.NewNoneProvider()},
	}}
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
	rec, err := s.Executor.Run(ctx, id, root, mounts, process, started)
	if rec != nil {
		// The container is removed behind it, and its cgroup with it.
		if werr := rec.Wait(); err == nil {
			err = werr
		}
	}
	return rec, err
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

// adapter fits the specification of a step to the runtimes and to our cgroups: a
// network is what BuildKit has last to do with it.
type adapter struct{ network.Provider }

// New implements network.Provider.
func (a adapter) New(ctx context.Context, hostname string, o network.NamespaceOptions) (network.Namespace, error) {
	ns, err := a.Provider.New(ctx, hostname, o)
	return adapted{ns}, err
}

type adapted struct{ network.Namespace }

// cgroupPrefix begins the names of the cgroups of steps.
const cgroupPrefix = "buildkit-"

// Set implements network.Namespace.
func (a adapted) Set(s *spec) error {
	s.Version = ociVersion
	if dir, id := filepath.Split(s.Linux.CgroupsPath); filepath.Base(dir) == "buildkit" {
		// Not in a cgroup that nobody would remove.
		s.Linux.CgroupsPath = filepath.Join(filepath.Dir(filepath.Clean(dir)), cgroupPrefix+id)
	}
	return a.Namespace.Set(s)
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
