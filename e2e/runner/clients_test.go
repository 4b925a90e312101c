package runner

import (
	"os"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestDockerPy has docker-py do what its documentation does: see testdata/client.py.
func TestDockerPy(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/usr/lib/python3/dist-packages/docker"); err != nil {
		t.Fatalf("this test needs docker-py: %v; run: apt-get install python3-docker", err)
	}
	h := newHost(t, berthtest.MachineOptions{})
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	h.built()
	before := h.usedCensus()
	out, errs, err := berthtest.NewCommand(t, "env", "/usr/bin/python3", "-W", "ignore", "testdata/client.py").On(h.Machine).Dir(here).
		Env("DOCKER_HOST=unix:///run/berth/runner.sock", "HOME="+t.TempDir()).Try(h.image("busybox"), builtContext)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	h.docker.Run("builder", "prune", "--all", "--force")
	h.Settle(t, before)
}

// builtContext is the context of a build with arguments, below testdata.
const builtContext = "testdata/compose/app"

// built has something built and forgotten: the first time leaves the builder's own
// files.
func (h *host) built() {
	h.t.Helper()
	h.docker.Run("build", "--quiet", "--build-arg", "REGISTRY="+strings.TrimSuffix(h.repository(""), "/"), "--tag", "first", builtContext)
	h.docker.Run("rmi", "first")
	h.docker.Run("builder", "prune", "--all", "--force")
}

// TestContext has the docker command reach the runner by a context.
func TestContext(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	docker := berthtest.NewCommand(t, "docker", "--config", t.TempDir()).On(h.Machine)
	docker.Run("context", "create", "berth", "--docker", "host=unix:///run/berth/runner.sock")
	docker.Run("context", "use", "berth")
	if out := docker.Run("context", "ls", "--format", "{{.Name}} {{.Current}} {{.Error}}"); !strings.Contains(out, "berth true \n") {
		t.Errorf("context ls: %s", out)
	}
	if out := docker.Run("run", "--rm", h.image("busybox"), "echo", "here"); out != "here\n" {
		t.Errorf("run: %q", out)
	}
}
