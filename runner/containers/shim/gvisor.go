package shim

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// sandboxed says that the runtime is gVisor's: the first process that the host
// sees is its kernel, and the container's own are within.
func (r runtimeProgram) sandboxed() bool { return filepath.Base(r.Path) == "runsc" }

// forContainer returns the runtime with the arguments that a container needs.
// Those that are configured come later, and win.
//
// What a container writes is to be in its layer, where differences, copies and the
// next start find it, not in a file of the sandbox. The host's network cannot be
// taken over by a sandbox: it uses the host's sockets.
func (r runtimeProgram) forContainer(spec *specs.Spec, ownNetwork bool) runtimeProgram {
	if !r.sandboxed() {
		return r
	}
	args := []string{"--overlay2=none"}
	if !ownNetwork && !slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace }) {
		args = append(args, "--network=host")
	}
	r.Args = append(args, r.Args...)
	return r
}

// withoutTTY runs a program without the option --tty, which conmon gives for an
// exec with a terminal, and runsc does not know: it reads that from the process.
const withoutTTY = `for a; do shift; [ "$a" = --tty ] || set -- "$@" "$a"; done; exec "$0" "$@"`

// monitored is how conmon calls the runtime: a program, and its first arguments.
func (s *Shim) monitored(r runtimeProgram) (program string, args []string) {
	if r.sandboxed() {
		return "/bin/sh", []string{"-c", withoutTTY, s.runtimeFile(r)}
	}
	return s.runtimeFile(r), nil
}

// sandboxState is the file in which runsc keeps the state of a container.
func (s *Shim) sandboxState(b *bundle) string {
	return filepath.Join(s.stateDir(b.record.Runtime), b.id+"_sandbox:"+b.id+".state")
}

// sandboxWaits says whether a container of runsc has not been started yet.
func (s *Shim) sandboxWaits(b *bundle) bool {
	var state struct{ Status specs.ContainerState }
	text, err := os.ReadFile(s.sandboxState(b))
	return err == nil && json.Unmarshal(text, &state) == nil && state.Status == specs.StateCreated
}

// signalSandbox sends a signal to the first process within a sandbox.
func (s *Shim) signalSandbox(ctx context.Context, b *bundle, sig syscall.Signal) error {
	said, err := s.runRuntime(ctx, b.record.Runtime, "kill", b.id, strconv.Itoa(int(sig)))
	if err != nil {
		return errors.New(runtimeDetail(b.record.Runtime, "kill", "", "", said))
	}
	return nil
}

// stateFiles are what a runtime keeps of a container.
func (s *Shim) stateFiles(b *bundle) []string {
	dir := s.stateDir(b.record.Runtime)
	if !b.record.Runtime.sandboxed() {
		return []string{filepath.Join(dir, b.id)}
	}
	state := s.sandboxState(b)
	return []string{state, state[:len(state)-len("state")] + "lock", filepath.Join(dir, "runsc-"+b.id+".sock")}
}
