package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestRuntimes runs containers by whatever OCI runtime they ask for: those that
// are installed, and one with arguments that is configured.
func TestRuntimes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	wrapper, config := filepath.Join(dir, "wrapper"), filepath.Join(dir, "runner.yaml")
	script := "#!/bin/sh\necho \"$@\" >>/run/wrapped\nexec " + berthtest.Tool(t, "runc") + " \"$@\"\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "runtimes:\n  plain: " + wrapper + "\n  wrapped: {path: " + wrapper + ", args: [--debug, --log-format=json]}\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, berthtest.MachineOptions{}, "--config", config)
	h.docker.Run("pull", "-q", h.image("bash"))
	clean := h.usedCensus()
	for _, runtime := range []string{"crun", "runc", "plain", "wrapped"} {
		h.docker.Run("run", "-d", "--name", runtime, "--runtime", runtime, h.image("busybox"), "sleep", "1000")
		h.docker.Run("exec", runtime, "true")
		h.docker.Run("update", "-m", "64m", "--memory-swap", "-1", runtime)
	}
	h.fails("unknown or invalid runtime name: other", "--runtime", "other")
	if got := h.docker.Run("info", "--format", "{{.DefaultRuntime}}:{{range $name, $r := .Runtimes}} {{$name}}{{end}}"); got != "crun: crun plain runc wrapped\n" {
		t.Errorf("docker info: runtimes %q", got)
	}
	h.Kill()
	h.Restart()
	for _, runtime := range []string{"crun", "runc", "plain", "wrapped"} {
		h.docker.Run("exec", runtime, "true")
		h.docker.Run("restart", "-t", "0", runtime)
		h.docker.Run("rm", "-f", runtime)
	}
	calls, err := os.ReadFile(h.Machine.Path("run", "wrapped"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"create", "start", "exec", "update", "delete"} {
		with, without := 0, 0
		for line := range strings.Lines(string(calls)) {
			if strings.Contains(line, " "+command+" ") && strings.Contains(line, "--debug --log-format=json") {
				with++
			} else if strings.Contains(line, " "+command+" ") {
				without++
			}
		}
		if with == 0 || with != without {
			t.Errorf("%s was called %d times with the arguments and %d times without:\n%s", command, with, without, calls)
		}
	}
	if err := os.Remove(h.Machine.Path("run", "wrapped")); err != nil {
		t.Fatal(err)
	}
	h.Settle(t, clean)
}
