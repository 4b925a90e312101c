package runner

import (
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestIPC shares memory and queues between containers, in each of the modes that
// Docker has for it.
func TestIPC(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	docker := h.docker
	in := func(name, script string) string {
		t.Helper()
		return strings.TrimSpace(docker.Run("exec", name, "bash", "-c", script))
	}
	docker.Run("pull", "-q", h.image("bash"))
	clean := h.usedCensus()
	docker.Run("run", "-d", "--name", "donor", "--ipc", "shareable", "--shm-size", "8m", h.image("bash"), "sleep", "1000")
	docker.Run("run", "-d", "--name", "guest", "--ipc", "container:donor", h.image("bash"), "sleep", "1000")
	docker.Run("run", "-d", "--name", "second", "--ipc", "container:guest", h.image("bash"), "sleep", "1000")
	docker.Run("run", "-d", "--name", "other", h.image("bash"), "sleep", "1000")

	in("donor", "echo of the donor >/dev/shm/d && ipcmk -M 4096 >/dev/null")
	in("guest", "echo of the guest >/dev/shm/g")
	for _, name := range []string{"donor", "guest", "second"} {
		if got := in(name, "cat /dev/shm/*; ipcs -m | grep -c ^0x; df -k --output=size /dev/shm | tail -1 | tr -d ' '"); got != "of the donor\nof the guest\n1\n8192" {
			t.Errorf("%s has %q", name, got)
		}
	}
	if got := in("other", "ls /dev/shm; ipcs -m | grep -c ^0x || true"); got != "0" {
		t.Errorf("a container of its own has %q", got)
	}

	// A mount of the guest's own is not hidden by the donor's memory.
	if got := docker.Run("run", "--rm", "--ipc", "container:donor", "--tmpfs", "/dev/shm", h.image("bash"), "ls", "/dev/shm"); got != "" {
		t.Errorf("over a mount of its own a container has %q", got)
	}
	// What the donor's users put in the place of its memory leads nowhere.
	docker.Run("run", "-d", "--name", "evil", "--ipc", "shareable", "--cap-add", "SYS_ADMIN", h.image("bash"),
		"bash", "-c", "umount /dev/shm && rmdir /dev/shm && ln -s /proc/1/root/etc /dev/shm && touch /tmp/done; exec sleep 1000")
	in("evil", "until [ -e /tmp/done ]; do :; done")
	for ref, want := range map[string]string{
		"other":   "non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
		"evil":    "non-shareable IPC",
		"nowhere": "No such container: nowhere",
	} {
		out, stderr, err := docker.Try("run", "--rm", "--ipc", "container:"+ref, h.image("bash"), "ls", "/dev/shm")
		if err == nil || !strings.Contains(stderr, want) {
			t.Errorf("--ipc container:%s: %v %s%s", ref, err, out, stderr)
		}
	}

	// The memory lives as long as one who has it; the donor comes back to new one.
	docker.Run("restart", "-t", "0", "donor")
	if got := in("guest", "cat /dev/shm/*; ipcs -m | grep -c ^0x"); got != "of the donor\nof the guest\n1" {
		t.Errorf("after the donor was restarted, the guest has %q", got)
	}
	if got := in("donor", "ls /dev/shm"); got != "" {
		t.Errorf("after its restart, the donor has %q", got)
	}
	// Also when the runner is killed meanwhile.
	h.Kill()
	h.Restart()
	if got := in("second", "cat /dev/shm/d"); got != "of the donor" {
		t.Errorf("after the runner was killed, the second guest has %q", got)
	}
	docker.Run("stop", "-t", "0", "donor")
	if _, stderr, err := docker.Try("restart", "-t", "0", "guest"); err == nil || !strings.Contains(stderr, "cannot join IPC of a non running container") {
		t.Errorf("a guest of a donor that does not run is started: %v %s", err, stderr)
	}
	docker.Run("start", "donor", "guest")
	if got := in("guest", "ls /dev/shm"); got != "" {
		t.Errorf("after all were restarted, the guest has %q", got)
	}

	h.otherModes()
	docker.Run("rm", "-f", "donor", "guest", "second", "other", "evil")
	h.Settle(t, clean)
}

// otherModes looks at the modes that name no container.
func (h *host) otherModes() {
	h.t.Helper()
	for args, want := range map[string]string{
		"--ipc private":      "65536",
		"--ipc none":         "none",
		"--uts host":         strings.TrimSpace(berthtest.NewCommand(h.t, "hostname").On(h.Machine).Run()),
		"--cgroupns host":    "outside",
		"--cgroupns private": "inside",
	} {
		mode, value, _ := strings.Cut(args, " ")
		script := map[string]string{
			"--ipc":      "df -k --output=size /dev/shm 2>/dev/null | tail -1 | tr -d ' ' | grep . || echo none",
			"--uts":      "cat /proc/sys/kernel/hostname",
			"--cgroupns": "grep -q ':pids:/berth-' /proc/self/cgroup && echo outside || echo inside",
		}[mode]
		if got := strings.TrimSpace(h.docker.Run("run", "--rm", mode, value, h.image("bash"), "bash", "-c", script)); got != want {
			h.t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	on := func(script string) string {
		return strings.TrimSpace(berthtest.NewCommand(h.t, "sh").On(h.Machine).Run("-c", script))
	}
	// Memory of the host is seen with --ipc host.
	on("ipcmk -M 4096")
	if got := strings.TrimSpace(h.docker.Run("run", "--rm", "--ipc", "host", h.image("bash"), "bash", "-c", "ipcs -m | grep -c ^0x")); got != "1" {
		h.t.Errorf("--ipc host: %s segments of memory", got)
	}
	on("ipcrm --all=shm")
}
