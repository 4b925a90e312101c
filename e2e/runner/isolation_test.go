package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestIsolation looks at what a container is given without asking: namespaces
// of its own, Docker's default capabilities, the seccomp filter, paths that are
// masked or read-only, cgroups and devices.
func TestIsolation(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.docker.Run("run", "-d", "--name", "one", h.image("bash"), "sleep", "1000")
	inside := func(script string) string {
		t.Helper()
		return strings.TrimSpace(h.docker.Run("exec", "one", "bash", "-c", script))
	}
	h.ownNamespaces("one", "pid", "net", "mnt", "uts", "ipc")

	// Chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
	// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
	const defaults = "00000000a80425fb"
	for field, want := range map[string]string{"CapPrm": defaults, "CapEff": defaults, "CapBnd": defaults, "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "Seccomp": "2", "NoNewPrivs": "0"} {
		for what, pid := range map[string]string{"the first process": "1", "an exec": "self"} {
			if got := inside(fmt.Sprintf("awk '/^%s:/ {print $2}' /proc/%s/status 2>/dev/null || grep ^%s: /proc/%s/status | cut -f2", field, pid, field, pid)); got != want {
				t.Errorf("%s of %s is %s: want %s", field, what, got, want)
			}
		}
	}
	for script, want := range map[string]string{
		"cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c": "0",
		"ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | wc -w":      "3", // the headings of empty directories
		"echo 1 >/proc/sys/kernel/domainname":                             "",
		"echo b >/proc/sysrq-trigger":                                     "",
		"mkdir /sys/kernel/x":                                             "",
		"unshare --user true":                                             "",
		"mount -t tmpfs none /mnt":                                        "",
		"mknod /tmp/sda b 8 0 && cat /tmp/sda":                            "",
		"hostname other":                                                  "",
		"date -s 12:00":                                                   "",
	} {
		out, stderr, err := h.docker.Try("exec", "one", "bash", "-c", script)
		if want == "" && err == nil {
			t.Errorf("%s succeeds in a container: %s%s", script, out, stderr)
		} else if want != "" && !strings.Contains(script, "/proc/acpi") && strings.TrimSpace(out) != want {
			t.Errorf("%s says %s%s: want %s", script, out, stderr, want)
		}
	}
	if got := h.docker.Run("run", "--rm", "--security-opt", "no-new-privileges", h.image("bash"), "grep", "^NoNewPrivs", "/proc/self/status"); got != "NoNewPrivs:\t1\n" {
		t.Errorf("with no-new-privileges: %q", got)
	}
	h.securityOptions()
	h.ownCgroups("one")
}

// securityOptions looks at what --security-opt does, and at what it refuses.
func (h *host) securityOptions() {
	h.t.Helper()
	profile := filepath.Join(h.t.TempDir(), "seccomp.json")
	text := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	for option, want := range map[string]string{
		"seccomp=unconfined":     "0 some made",
		"seccomp=builtin":        "2 some made",
		"seccomp=" + profile:     "2 some refused",
		"systempaths=unconfined": "2 none made",
		"label=disable":          "2 some made",
		"apparmor=unconfined":    "2 some made",
	} {
		script := "read -r _ mode < <(grep ^Seccomp: /proc/self/status); grep -q ' /proc/' /proc/mounts && masks=some || masks=none; " +
			"mkdir /x 2>/dev/null && made=made || made=refused; echo $mode $masks $made"
		if got := h.output(script, "--security-opt", option); got != want {
			h.t.Errorf("--security-opt %s: %q, want %q", option, got, want)
		}
	}
	for option, want := range map[string]string{
		"label=type:x":          "Berth sets no SELinux labels",
		"apparmor=other":        "apparmor",
		"writable-cgroups=true": "requires a host with cgroup v2",
		"unknown=x":             "invalid --security-opt",
	} {
		args := []string{"run", "--rm", "--security-opt", option, h.image("bash"), "true"}
		if _, stderr, err := h.docker.Try(args...); err == nil || !strings.Contains(strings.ToLower(stderr), strings.ToLower(want)) {
			h.t.Errorf("--security-opt %s: %v: %s, want %q", option, err, stderr, want)
		}
	}
}

// ownNamespaces checks that a container shares none of the namespaces with the
// host, nor with another container.
func (h *host) ownNamespaces(name string, kinds ...string) {
	h.t.Helper()
	h.docker.Run("run", "-d", "--name", "other", h.image("bash"), "sleep", "1000")
	pid := func(name string) string {
		return strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.State.Pid}}", name))
	}
	for _, kind := range kinds {
		seen := map[string]string{}
		for who, pid := range map[string]string{"the host": "1", name: pid(name), "other": pid("other")} {
			ns, err := os.Readlink(h.Machine.Path("proc", pid, "ns", kind))
			if err != nil {
				h.t.Error(err)
			} else if before, ok := seen[ns]; ok {
				h.t.Errorf("%s and %s share the %s namespace", who, before, kind)
			}
			seen[ns] = who
		}
	}
}

// ownCgroups checks that a container is in cgroups of its own, and which devices
// it may use.
func (h *host) ownCgroups(name string) {
	h.t.Helper()
	pid := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.State.Pid}}", name))
	id := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.Id}}", name))
	text := berthtest.NewCommand(h.t, "cat").On(h.Machine).Run("/proc/" + pid + "/cgroup")
	found := 0
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[1] == "" {
			continue // version 2 beside version 1 limits nothing
		}
		found++
		if !strings.Contains(f[2], id) {
			h.t.Errorf("in the hierarchy %s, the container is in %s", f[1], f[2])
		}
		if f[1] != "devices" {
			continue
		}
		list, err := os.ReadFile(h.Machine.Path("sys/fs/cgroup/devices", f[2], "devices.list"))
		if err != nil {
			h.t.Error(err)
		}
		allowed := strings.Split(strings.TrimSpace(string(list)), "\n")
		for _, want := range []string{"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c *:* m", "b *:* m"} {
			if !slices.Contains(allowed, want) {
				h.t.Errorf("the device %s is not allowed: %q", want, allowed)
			}
		}
		if slices.Contains(allowed, "a *:* rwm") {
			h.t.Error("all devices are allowed")
		}
	}
	if found == 0 {
		h.t.Errorf("the container is in no cgroup: %s", text)
	}
}

// TestUnified runs containers on a host that has cgroups of version 2 alone.
// With runc: crun raises a limit for version 2 (RLIMIT_MEMLOCK), for which the
// machines that test may lack the capability.
func TestUnified(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{Unified: true}, "--runtime", "runc")
	before := h.usedCensus()
	if got := strings.TrimSpace(h.docker.Run("info", "-f", "{{.CgroupVersion}}")); got != "2" {
		t.Errorf("docker info says that cgroups are of version %s", got)
	}
	h.docker.Run("run", "-d", "--name", "one", h.image("busybox"), "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
	id := strings.TrimSpace(h.docker.Run("inspect", "-f", "{{.Id}}", "one"))
	if groups := h.Census(t); !slices.ContainsFunc(groups, func(line string) bool {
		return strings.HasPrefix(line, "cgroup unified/") && strings.Contains(line, id)
	}) {
		t.Errorf("the container has no cgroup: %q", groups)
	}
	if out := h.docker.Run("exec", "one", "sh", "-c", "echo said"); out != "said\n" {
		t.Errorf("exec wrote %q", out)
	}
	h.docker.Run("pause", "one")
	if got := h.docker.Run("inspect", "-f", "{{.State.Status}}", "one"); got != "paused\n" {
		t.Errorf("after pause, it is %s", got)
	}
	paused := h.docker.Run("logs", "one")
	h.Kill()
	h.Restart()
	if again := h.docker.Run("logs", "one"); again != paused {
		t.Errorf("a paused container wrote %q", strings.TrimPrefix(again, paused))
	}
	h.docker.Run("unpause", "one")
	if err := eventually(func() error {
		if h.docker.Run("logs", "one") == paused {
			return fmt.Errorf("after unpause, it writes nothing")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	h.docker.Run("top", "one")
	h.docker.Run("rm", "-f", "one")
	h.Settle(t, before)
}
