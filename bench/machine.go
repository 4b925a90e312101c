package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// machine is where figures were measured.
type machine struct {
	Cores      int    `json:"cores"`
	CPU        string `json:"cpu"`
	MemoryMB   int64  `json:"memory_mb"`
	Kernel     string `json:"kernel"`
	Filesystem string `json:"filesystem"`
	Go         string `json:"go"`
	// Load is the load average of the minute before: what else kept it busy.
	Load float64 `json:"load"`
}

func thisMachine(dir string) machine {
	m := machine{
		Cores:      runtime.NumCPU(),
		CPU:        field("/proc/cpuinfo", "model name"),
		Kernel:     firstLine("/proc/sys/kernel/osrelease"),
		Filesystem: filesystem(dir),
		Go:         runtime.Version(),
	}
	_, _ = fmt.Sscan(firstLine("/proc/loadavg"), &m.Load) // unknown is shown as nothing
	var kib int64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib); err == nil {
		m.MemoryMB = kib >> 10
	}
	return m
}

func firstLine(path string) string {
	b, _ := os.ReadFile(path) // unknown is shown as nothing
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

// field returns the value of the first line "name: value" of a file.
func field(path, name string) string {
	b, _ := os.ReadFile(path) // unknown is shown as nothing
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// filesystem names the type of the filesystem that holds dir: that of the
// longest mount point that leads to it.
func filesystem(dir string) string {
	b, _ := os.ReadFile("/proc/self/mounts") // unknown is shown as nothing
	kind, longest := "", -1
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		rel, err := filepath.Rel(f[1], dir)
		if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") && len(f[1]) >= longest {
			kind, longest = f[2], len(f[1])
		}
	}
	return kind
}

// freeSpace returns how many bytes may be written below dir.
func freeSpace(dir string) (int64, error) {
	var s syscall.Statfs_t
	err := syscall.Statfs(dir, &s)
	return int64(s.Bavail) * s.Bsize, err
}

// peerPackages are those whose versions matter to the figures of a part.
var peerPackages = map[string][]string{
	partRegistry: {nameDockerRegistry, nameNginx},
	partRunner:   {"conmon", "containerd", "crun", "docker.io", "isal", "podman", "runc"},
	partDeploy:   {"containerd", "docker.io", "runc"},
}

// peerVersions says with which Debian packages berth was compared, or by which
// it was driven.
func peerVersions(ctx context.Context, part string) map[string]string {
	versions := map[string]string{}
	if part != partRegistry {
		out, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Client.Version}}").Output()
		if v := strings.TrimSpace(string(out)); v != "" { // it fails, as there is no server
			versions["docker command"] = v
		} else if err != nil {
			versions["docker command"] = "of unknown version"
		}
	}
	for _, pkg := range peerPackages[part] {
		out, err := exec.CommandContext(ctx, "dpkg-query", "--show", "--showformat=${Version}", pkg).Output()
		if err == nil && len(out) > 0 {
			versions[pkg] = string(out)
		}
	}
	return versions
}
