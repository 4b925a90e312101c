package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestTestcontainers has testcontainers-go do all that it does: see
// e2e/containers. Its reaper, which the library starts with the socket mounted into
// it, is a stand-in for the one on Docker Hub, and removes what is left to it.
func TestTestcontainers(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.built()
	h.reaper(t, "testcontainers/ryuk:0.14.0")
	before := h.usedCensus()
	home := t.TempDir()
	out := berthtest.NewCommand(t, "containers").On(h.Machine).
		Env("DOCKER_HOST=unix:///run/berth/runner.sock", "HOME="+home, "DOCKER_CONFIG="+home).Run(h.image("busybox"))
	t.Log(out)
	if err := eventually(func() error {
		left := h.docker.Run("ps", "--all", "--format", "{{.Names}}") + h.docker.Run("volume", "ls", "--quiet") + h.docker.Run("network", "ls", "--quiet", "--filter", "type=custom")
		if left != "" {
			return fmt.Errorf("the reaper has left %q", left)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	h.docker.Run("builder", "prune", "--all", "--force")
	h.Settle(t, before)
}

// reaper makes the image of the reaper.
func (h *host) reaper(t *testing.T, name string) {
	t.Helper()
	dir := t.TempDir()
	program, err := os.ReadFile(berthtest.Tool(t, "containers"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"containers": string(program), "Dockerfile": "FROM scratch\nCOPY containers /\nENTRYPOINT [\"/containers\", \"reap\"]\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.docker.Run("build", "--quiet", "--tag", name, dir)
	h.docker.Run("builder", "prune", "--all", "--force")
	if out := h.docker.Run("images", "--quiet", name); strings.TrimSpace(out) == "" {
		t.Fatalf("%s was not built", name)
	}
}
