package runner

import (
	"os"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// thing describes a device of each kind of edit that CDI has, and two graphics
// cards that are none.
const thing = `
cdiVersion: "0.6.0"
kind: "example.com/thing"
containerEdits: {env: ["KIND=thing"]}
devices:
  - name: one
    containerEdits:
      env: ["ONE=1"]
      deviceNodes: [{path: /dev/berth-zero, hostPath: /dev/zero, permissions: rw}]
      mounts: [{hostPath: /run/cdi/lib, containerPath: /opt/lib, options: [ro, rbind]}]
      hooks: [{hookName: createRuntime, path: /usr/bin/touch, args: [touch, /run/cdi/hooked]}]
`

const cards = `
cdiVersion: "0.6.0"
kind: "nvidia.com/gpu"
devices:
  - {name: "0", containerEdits: {env: ["CARD0=yes"]}}
  - {name: "1", containerEdits: {env: ["CARD1=yes"]}}
  - {name: all, containerEdits: {env: ["CARDS=all"]}}
`

// TestDevices gives containers devices by their paths, by rules, and by what
// vendors describe.
func TestDevices(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *host{
		"crun":     func(t *testing.T) *host { return newHost(t, berthtest.MachineOptions{}) },
		"runc":     func(t *testing.T) *host { return newHost(t, berthtest.MachineOptions{}, "--runtime", "runc") },
		"remapped": func(t *testing.T) *host { return remappedHost(t, berthtest.MachineOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t)
			h.docker.Run("pull", "-q", h.image("bash"))
			clean := h.usedCensus()
			h.devicesByPath(name == "remapped")
			h.devicesByName()
			h.Settle(t, clean)
		})
	}
}

// output runs a script in a container with options.
func (h *host) output(script string, options ...string) string {
	h.t.Helper()
	args := append([]string{"run", "--rm"}, options...)
	return strings.TrimSpace(h.docker.Run(append(args, h.image("bash"), "bash", "-c", script)...))
}

// fails runs a container with options that the runner is to refuse.
func (h *host) fails(want string, options ...string) {
	h.t.Helper()
	args := append([]string{"run", "--rm"}, options...)
	_, stderr, err := h.docker.Try(append(args, h.image("bash"), "true")...)
	if err == nil || !strings.Contains(stderr, want) {
		h.t.Errorf("docker run %s: %v: %swant %q", strings.Join(options, " "), err, stderr, want)
	}
}

func (h *host) devicesByPath(remapped bool) {
	h.t.Helper()
	if got := h.output("head -c 4 /dev/other | wc -c", "--device", "/dev/zero:/dev/other"); got != "4" {
		h.t.Errorf("--device: %q", got)
	}
	h.fails("error gathering device information", "--device", "/dev/berth-missing")
	if remapped { // where nobody makes nodes, and those of the host's root stay its own
		return
	}
	if got := h.output("(: >/dev/other) && echo write; (: </dev/other) 2>/dev/null || echo no more", "--device", "/dev/kmsg:/dev/other:w"); got != "write\nno more" {
		h.t.Errorf("--device with w: %q", got)
	}
	node := "mknod /tmp/full c 1 7; head -c 1 /tmp/full | wc -c"
	if got := h.output(node, "--device-cgroup-rule", "c 1:7 rwm"); got != "1" {
		h.t.Errorf("--device-cgroup-rule: %q", got)
	}
	if got := h.output("mknod /tmp/kmsg c 1 11; cat </tmp/kmsg 2>/dev/null || echo denied"); got != "denied" {
		h.t.Errorf("without a rule a device says %.100q", got)
	}
}

func (h *host) devicesByName() {
	h.t.Helper()
	h.fails(`unresolvable CDI devices example.com/thing=one`, "--device", "example.com/thing=one")
	h.fails(`could not select device driver "" with capabilities: [[gpu]]`, "--gpus", "all")
	for name, content := range map[string]string{"thing.yaml": thing, "cards.yaml": cards, "broken.json": "{", "lib/x": "of the vendor\n"} {
		path := h.Machine.Path("run", "cdi", name)
		if err := os.MkdirAll(h.Machine.Path("run", "cdi", "lib"), 0o755); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	script := "echo $KIND $ONE $CARD0-$CARD1 $CARDS; cat /opt/lib/x; head -c 3 /dev/berth-zero | wc -c; touch /opt/lib/y 2>/dev/null || echo read-only"
	if got := h.output(script, "--device", "example.com/thing=one", "--gpus", "2"); got != "thing 1 yes-yes\nof the vendor\n3\nread-only" {
		h.t.Errorf("with a device by its name a container has %q", got)
	}
	if _, err := os.Stat(h.Machine.Path("run", "cdi", "hooked")); err != nil {
		h.t.Errorf("the hook of a device: %v", err)
	}
	for gpus, want := range map[string]string{"all": "all", "device=1": "yes", "1": "yes"} {
		if got := h.output("echo $CARD0 $CARD1 $CARDS", "--gpus", gpus); got != want {
			h.t.Errorf("--gpus %s: %q", gpus, got)
		}
	}
	h.fails("unresolvable CDI devices nvidia.com/gpu=7", "--gpus", "device=7")
	info := h.docker.Run("info", "--format", "{{json .CDISpecDirs}} {{json .DiscoveredDevices}} {{json .Warnings}}")
	for _, want := range []string{`["/etc/cdi","/var/run/cdi"]`, `{"Source":"cdi","ID":"example.com/thing=one"}`, "broken.json"} {
		if !strings.Contains(info, want) {
			h.t.Errorf("docker info says %s: want %s", info, want)
		}
	}
	// Names and descriptions are read when a container starts.
	h.docker.Run("create", "--name", "later", "--device", "example.com/thing=one", h.image("bash"), "true")
	if err := os.RemoveAll(h.Machine.Path("run", "cdi")); err != nil {
		h.t.Fatal(err)
	}
	if _, stderr, err := h.docker.Try("start", "later"); err == nil || !strings.Contains(stderr, "unresolvable CDI devices") {
		h.t.Errorf("started without its device: %v %s", err, stderr)
	}
	h.docker.Run("rm", "later")
}
