package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// nginxProgram is where Debian has nginx: /usr/sbin is not in every user's path.
func nginxProgram() string {
	if path, err := exec.LookPath(nameNginx); err == nil {
		return path
	}
	return "/usr/sbin/nginx"
}

// install installs from Debian the peers that works need and that are missing.
func install(ctx context.Context, works []work) error {
	var missing []string
	for _, p := range []struct{ program, pkg string }{
		{nameDockerRegistry, "docker-registry"},
		{nginxProgram(), "nginx-light"},
	} {
		if _, err := exec.LookPath(p.program); err != nil && needed(works, p.pkg) {
			missing = append(missing, p.pkg)
		}
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

func needed(works []work, pkg string) bool {
	for _, w := range works {
		if slices.Contains(w.needs, pkg) {
			return true
		}
	}
	return false
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

// program returns the absolute path of berth: the one given, or with path empty
// one in dir that is compiled from the tree.
func program(ctx context.Context, path, dir string) (string, error) {
	if path != "" {
		return filepath.Abs(path)
	}
	path = filepath.Join(dir, "berth")
	const pkg = "github.com/berth-registry/berth/cmd/berth"
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as the Makefile does
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build berth: %w: %s", err, out)
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
