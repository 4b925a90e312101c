package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// postgresProgram stands for PostgreSQL among what a work needs, whatever its version.
const postgresProgram = "postgresql"

// lookup is where Debian has a program, /usr/sbin is not in every user's path; or where
// hack/install-tools.sh has put one that Debian has not.
func lookup(program string) (path string, found bool) {
	if program == postgresProgram {
		dir := postgresDir()
		return dir, dir != ""
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, true
	}
	if path := filepath.Join(cmp.Or(os.Getenv("BERTH_TOOLS"), filepath.Join(moduleRoot(), "bin", "tools")), program); isThere(path) {
		return path, true
	}
	path = "/usr/sbin/" + program
	return path, isThere(path)
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// moduleRoot is the directory of Berth's source, or the current one.
func moduleRoot() string {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		switch {
		case isThere(filepath.Join(dir, "go.mod")):
			return dir
		case dir == filepath.Dir(dir):
			return "."
		}
	}
	return "."
}

func nginxProgram() string {
	path, _ := lookup(nameNginx)
	return path
}

// engineTools are the programs of the engines that are compared, and those that
// the works with them take.
var engineTools = []string{
	"busybox", "conmon", "containerd", "crun", "docker", "dockerd", "ip", "iptables", "nft", "podman", "tini", "unshare", "/usr/lib/cni/bridge",
}

// packages are those of Debian in which programs are, where the name differs.
var packages = map[string]string{
	"busybox":             "busybox-static", // there is no other in its container
	"docker":              "docker.io",
	"dockerd":             "docker.io",
	"igzip":               "isal",
	"ip":                  "iproute2",
	"nft":                 "nftables",
	"nsenter":             "util-linux",
	nameNginx:             "nginx-light",
	"setpriv":             "util-linux",
	"unshare":             "util-linux",
	"/usr/lib/cni/bridge": "containernetworking-plugins", // podman's
}

// missing returns the packages of the programs that works need and that are not
// there.
func missing(works []work) []string {
	pkgs := map[string]bool{}
	for _, w := range works {
		for _, program := range w.needs {
			if _, found := lookup(program); !found {
				pkgs[cmp.Or(packages[program], program)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(pkgs))
}

// install installs from Debian the peers that works need and that are missing.
func install(ctx context.Context, works []work) error {
	if needsRunner(works) && os.Geteuid() != 0 {
		return fmt.Errorf("containers need root: run it as root, or with -only %s", partRegistry)
	}
	missing := missing(works)
	for _, name := range []string{nameS3, nameBuildx, nameComposeTool} { // Debian has none
		at := slices.Index(missing, name)
		if at < 0 {
			continue
		}
		if out, err := exec.CommandContext(ctx, filepath.Join(moduleRoot(), "hack", "install-tools.sh"), name).CombinedOutput(); err != nil {
			return fmt.Errorf("hack/install-tools.sh %s: %w: %s", name, err, out)
		}
		missing = slices.Delete(missing, at, at+1)
	}
	if len(missing) == 0 {
		return nil
	}
	command := "apt-get install --yes --no-install-recommends " + strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("to compare with them, install %s first; on Debian: sudo %s", strings.Join(missing, " and "), command)
	}
	restore, err := forbidServices()
	if err != nil {
		return err
	}
	defer restore()
	for _, args := range [][]string{{"apt-get", "update"}, strings.Fields(command)} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// forbidServices keeps packages from starting what they install:
// docker-registry would take port 5000, where berth listens. See
// invoke-rc.d(8).
func forbidServices() (restore func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return func() {}, nil // the machine has a policy, which is to be respected
	}
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	return func() { _ = os.Remove(policy) }, errors.Join(err, f.Close())
}

// program returns the absolute path of one of Berth's programs: the one given, or
// with path empty one in dir that is compiled from the tree.
func program(ctx context.Context, path, name, dir string) (string, error) {
	if path != "" {
		return filepath.Abs(path)
	}
	path = filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/berth-registry/berth/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile does
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return path, nil
}

// workDir makes the directory for everything that is written.
func workDir(dir string) (string, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	} else if dir = os.Getenv("TMPDIR"); dir == "" {
		dir = "/var/tmp" // /tmp may be in memory, where fsync costs nothing
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, "berth-bench-")
}
