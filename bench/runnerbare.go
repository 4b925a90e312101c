package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// nameBareRun is the OCI runtime alone: what every engine has to do at least.
// nameBareFilter is the same when it is given, as berth-runner does from the second
// container on, the seccomp filter that it once made of the profile.
const (
	nameBareRun    = "bare crun run"
	nameBareFilter = "bare crun run, seccomp compiled before"
)

// bareRun runs a container of berth-runner's by the OCI runtime alone, with the
// same capabilities, seccomp profile, mounts and limits, but with a plain
// directory as its tree, a network namespace in which there is nothing, and
// nobody who watches it.
type bareRun struct {
	dir string // the bundle
	n   int    // containers so far
}

// newBareRun makes the bundle out of one of a container that e is given for it,
// and that goes on, as some of its mounts come from its directory. With the first
// one that e gets the runtime gets the profile.
func (b *bench) newBareRun(ctx context.Context, e *engine, name string) (*bareRun, error) {
	id, err := e.running(ctx, newContainer(b.smallImage(), forever...))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(runnerRun, "containers", id, "config.json"))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	if profile := spec.Linux.Seccomp != nil; profile != (name == nameBareRun) || spec.Process.Capabilities == nil {
		return nil, fmt.Errorf("%s: the bundle's seccomp profile: %v, capabilities: %v", name, profile, spec.Process.Capabilities)
	}
	r := &bareRun{dir: filepath.Join(b.dir, name)}
	root := filepath.Join(r.dir, "rootfs")
	spec.Root.Path = root
	spec.Process.Args = []string{"true"}
	spec.Linux.CgroupsPath = "/bare"
	for i, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = ""
		}
	}
	if text, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	busybox, _ := lookup("busybox")
	tree := exec.CommandContext(ctx, "sh", "-c", `cd "$1" && mkdir bin tmp && cp "$2" bin/busybox && for c in sh sleep true; do ln -s busybox bin/$c; done`, "sh", root, busybox)
	if err := errors.Join(runQuietly(tree), os.WriteFile(filepath.Join(r.dir, "config.json"), text, 0o600)); err != nil {
		return nil, err
	}
	err = r.run(ctx) // warms up
	return r, err
}

// run runs the container to its end.
func (r *bareRun) run(ctx context.Context) error {
	r.n++
	return runQuietly(exec.CommandContext(ctx, "crun", "--root", filepath.Join(runDir, "crun"), "run", "--bundle", r.dir, fmt.Sprint("bare-", r.n)))
}
