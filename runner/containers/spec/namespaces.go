package spec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// namespaces lists the namespaces of a container. One that is not in the list is
// the host's.
func namespaces(in Input) ([]specs.LinuxNamespace, error) {
	hc := in.Container.HostConfig
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(kind specs.LinuxNamespaceType, path, what string) error {
		if path == "" {
			return runner.Errorf(runner.ErrInvalid, "no container is known whose %s is to be joined", what)
		}
		list = append(list, specs.LinuxNamespace{Type: kind, Path: path})
		return nil
	}
	var err error
	switch {
	case hc.NetworkMode.IsHost() && !in.Container.Config.NetworkDisabled:
	case hc.NetworkMode.IsContainer():
		err = join(specs.NetworkNamespace, in.JoinNet, "network")
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.NetNSPath})
	}
	if err != nil {
		return nil, err
	}
	if !hc.UTSMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.UTSNamespace})
	}
	switch {
	case hc.PidMode.IsHost():
	case hc.PidMode.IsContainer():
		err = join(specs.PIDNamespace, in.JoinPID, "processes")
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if err != nil {
		return nil, err
	}
	switch {
	case hc.IpcMode.IsHost():
	case hc.IpcMode.IsContainer():
		err = join(specs.IPCNamespace, in.JoinIPC, "IPC")
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if err != nil {
		return nil, err
	}
	if privateCgroupns(in.Host, hc.CgroupnsMode) {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list, nil
}
