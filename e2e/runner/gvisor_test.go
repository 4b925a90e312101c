package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestGVisor runs containers in sandboxes of gVisor, whose processes the host does
// not see: what is done to them goes by the runtime.
func TestGVisor(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "runner.yaml")
	if err := os.WriteFile(config, []byte("runtimes: {runsc: "+berthtest.Tool(t, "runsc")+"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, berthtest.MachineOptions{}, "--config", config)
	busybox := h.image("busybox")
	run := func(args ...string) string {
		return h.docker.Run(append([]string{"run", "--runtime", "runsc"}, args...)...)
	}
	want := func(what, got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	want("kernel", run("--rm", busybox, "uname", "-r"), "gvisor")
	clean := h.usedCensus()
	want("the host's network", run("--rm", "--network", "host", busybox, "ip", "-o", "addr"), h.Machine.Address)
	run("-d", "--name", "box", "-m", "64m", busybox, "sh", "-c",
		`trap "exit 7" TERM; trap "exit 9" USR1; echo on >>/kept; cat /kept; while :; do sleep 0.1; done`)
	running := func() {
		t.Helper()
		want("exec", h.docker.Run("exec", "box", "echo", "within"), "within")
		want("terminal", berthtest.NewCommand(t, "script", "-qec", "docker --host "+h.Host()+" exec -it box sh -c 'test -t 0 && echo terminal'", os.DevNull).Run(), "terminal")
		want("state", h.docker.Run("inspect", "--format", "{{.State.Status}}", "box"), "running")
	}
	running()
	h.docker.Run("pause", "box")
	h.docker.Run("unpause", "box")
	h.docker.Run("update", "-m", "80m", "--memory-swap", "-1", "box")
	want("statistics", h.docker.Run("stats", "--no-stream", "box"), "80MiB")
	want("differences", h.docker.Run("diff", "box"), "A /kept\n")
	h.Kill()
	h.Restart()
	running()
	h.docker.Run("kill", "-s", "USR1", "box")
	want("exit of a signal", h.docker.Run("wait", "box"), "9")
	h.docker.Run("start", "box")
	h.docker.Run("stop", "box")
	want("exit", h.docker.Run("wait", "box"), "7")
	h.docker.Run("start", "box")
	running()
	want("what was written", h.docker.Run("logs", "box"), strings.Repeat("on\n", 3))
	h.docker.Run("rm", "-f", "box")
	h.Settle(t, clean)
}
