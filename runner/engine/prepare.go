package engine

import (
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// filesOf are the files in a container's directory that are mounted into it.
func (e *Engine) filesOf(id string) spec.Files {
	dir := e.store.Dir(id)
	return spec.Files{
		Hosts:      filepath.Join(dir, "hosts"),
		Hostname:   filepath.Join(dir, "hostname"),
		ResolvConf: filepath.Join(dir, "resolv.conf"),
	}
}

// prepareFiles writes the files in the container's directory that are mounted
// into it. /etc/hosts is only made here: its content needs the network. A
// container in the network of another shares the other's files.
func (e *Engine) prepareFiles(rec *runner.Container) (files spec.Files, err error) {
	hc := rec.HostConfig
	if ref := hc.NetworkMode.ConnectedContainer(); ref != "" {
		c, err := e.find(ref)
		if err != nil {
			return files, err
		}
		files = e.filesOf(c.id)
	} else {
		files = e.filesOf(rec.ID)
		for path, content := range map[string][]byte{
			files.Hosts:      nil,
			files.Hostname:   []byte(rec.Config.Hostname + "\n"),
			files.ResolvConf: e.resolvConf(rec),
		} {
			if err := os.WriteFile(path, content, 0o644); err != nil { //nolint:gosec // every user of the container reads them
				return files, err
			}
		}
	}
	if hc.Init != nil && *hc.Init {
		files.Init, err = e.initPath()
	}
	return files, err
}

// likeItsNetwork returns the record with the name of the host that the container
// is on: in the network of another, it is the other's.
func (e *Engine) likeItsNetwork(rec *runner.Container) *runner.Container {
	c, err := e.find(rec.HostConfig.NetworkMode.ConnectedContainer())
	if err != nil {
		return rec
	}
	other, _ := c.snapshot()
	changed, cfg := *rec, *rec.Config
	cfg.Hostname, cfg.Domainname = other.Config.Hostname, other.Config.Domainname
	changed.Config = &cfg
	return &changed
}

// initPath finds the program for --init. It must be static, as it runs in the
// container's file system.
func (e *Engine) initPath() (string, error) {
	names := []string{"docker-init", "tini-static", "catatonit"}
	if e.opts.Init != "" {
		names = []string{e.opts.Init}
	}
	for _, name := range names {
		if path, err := osexec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", runner.Errorf(runner.ErrPrecondition,
		"--init needs %s: install it (apt-get install tini) or set init in the runner's configuration", strings.Join(names, " or "))
}

// input is what a specification is made of, and the open root of the image that
// it reads users from.
type input struct {
	spec.Input
	root *os.File
	shm  *os.File // of another container; nil for none
}

func (in input) close() {
	for _, f := range []*os.File{in.root, in.shm} {
		if f != nil {
			f.Close()
		}
	}
}

// specInput gathers what the container's specification is made of.
func (e *Engine) specInput(rec *runner.Container, files spec.Files) (input, error) {
	in := input{Input: e.baseInput(rec)}
	in.Files = files
	var err error
	if in.JoinPID, err = e.namespaceOf(rec.HostConfig.PidMode.Container(), "pid", "PID"); err != nil {
		return in, err
	}
	if in.JoinNet, err = e.namespaceOf(rec.HostConfig.NetworkMode.ConnectedContainer(), "net", "network"); err != nil {
		return in, err
	}
	if err := e.joinIPC(rec, &in); err != nil {
		return in, err
	}
	if in.User, err = e.userNamespace(rec); err != nil {
		return in, err
	}
	if in.root, err = shim.OpenRootfs(e.readOnly(rec)); err != nil {
		return in, fmt.Errorf("open the container's files: %w", err)
	}
	in.Passwd, in.Group = fileIn(in.root, "/etc/passwd"), fileIn(in.root, "/etc/group")
	return in, nil
}

// readOnly is the container's tree to look at. Its writable layer is only the
// topmost of those below, so it can be open while the container starts or runs.
func (e *Engine) readOnly(rec *runner.Container) shim.Rootfs {
	lower := append([]string{e.store.Upper(rec.ID)}, rec.Lower...)
	return shim.Rootfs{Lower: lower, ReadOnly: true}
}

func (e *Engine) baseInput(rec *runner.Container) spec.Input {
	return spec.Input{
		Host:        e.specHost(),
		Container:   rec,
		CgroupsPath: spec.CgroupsPath(e.cgroupParent(), rec),
		Device:      spec.FindDevices,
		Propagation: spec.FindPropagation,
		IsFile:      isFile,
		IsVolume:    e.isVolume,
	}
}

// inputWithRoot is the input for a further process of a running container.
func (e *Engine) inputWithRoot(rec *runner.Container, root *os.File) spec.Input {
	in := e.baseInput(rec)
	in.Passwd, in.Group = fileIn(root, "/etc/passwd"), fileIn(root, "/etc/group")
	return in
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func fileIn(root *os.File, path string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return rootfs.Open(root, path) }
}

// namespaceOf returns the path of a running container's namespace, or nothing
// for no container.
func (e *Engine) namespaceOf(ref, file, what string) (string, error) {
	if ref == "" {
		return "", nil
	}
	c, err := e.find(ref)
	if err != nil {
		return "", err
	}
	_, st := c.snapshot()
	if !st.Running() {
		return "", runner.Errorf(runner.ErrConflict, "cannot join %s of a non running container: %s", what, c.id)
	}
	return fmt.Sprintf("/proc/%d/ns/%s", st.PID, file), nil
}
